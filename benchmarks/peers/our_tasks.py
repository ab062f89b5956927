"""A job of a kind that no peer has."""

from jobs import task


@task(transactional=True)
def transactional(number: int) -> None:
    """Commit nothing, together with the job's success."""
