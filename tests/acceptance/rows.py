"""What became of enqueued jobs, read from their rows."""

from typing import Any

from jobs.models import Attempt, Job
from jobs.states import State


def row_of(result: Any) -> Job:
    return Job.objects.get(pk=result.id)


def have_state(state: State, *results: Any) -> bool:
    """Say whether all these jobs are in that state."""
    return Job.objects.filter(pk__in=[result.id for result in results], state=state).count() == len(results)


def have_succeeded(*results: Any) -> bool:
    return have_state(State.SUCCEEDED, *results)


def outcomes_of(result: Any) -> list[str]:
    """Return how the attempts of a job ended that left a row, oldest first."""
    return list(Attempt.objects.filter(job=result.id).order_by("pk").values_list("outcome", flat=True))
