"""Storage and lifecycle against a plain model of them: whatever imaginary workers do in whatever order, both agree.

MODEL_EXAMPLES says how many runs to try; `make chaos` tries many.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from django.db.models import F
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from jobs import lifecycle
from jobs.leases import Lease, Remains
from jobs.models import Attempt, DeadLetter, ErrorGroup, Job, Queue
from jobs.outcomes import (
    Cancelled,
    ErrorReport,
    Failed,
    Interrupted,
    Outcome,
    Released,
    Snoozed,
    Succeeded,
    Success,
)
from jobs.states import Reason, State
from jobs.storage import storage
from jobs.verdicts import settlement
from tests import tasks

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "25"))
LEASE = timedelta(seconds=60)
WORKERS = st.sampled_from(["w1", "w2", "w3"])
MAX_CRASHES = 2
REPORT = ErrorReport("builtins.ValueError", "no")
KEEP = {name: timedelta(days=1) for name in ("succeeded", "cancelled", "dead")}
ENDED = {"succeeded", "dead", "cancelled"}

OUTCOMES: dict[str, Outcome] = {
    "succeeded": Succeeded("7"),
    "retried": Failed(REPORT, retry_in=3600.0),
    "dead": Failed(REPORT, reason=Reason.PERMANENT_ERROR),
    "snoozed": Snoozed(3600.0),
    "cancelled": Cancelled(REPORT),
    "released": Released(),
    "interrupted": Interrupted("stopped"),
}


@dataclass
class Model:
    """What a job is, by the rules alone."""

    id: int
    number: int  # from 1 in each run: ids go on, and a run must be the same when it is repeated
    priority: int
    state: str = "ready"
    token: int = 0
    holder: str = ""
    attempts: int = 0
    crashes: int = 0
    suspect: bool = False
    cancel_requested: bool = False
    place: int = 0  # among the ready: the later it became ready the larger
    is_expired: bool = False
    notes: Counter[str] = field(default_factory=Counter)
    letters: int = 0

    def is_held_by(self, lease: Lease) -> bool:
        return (self.state, self.token, self.holder) == ("running", lease.token, lease.worker_id)

    def end_lease(self, state: str, suspect: bool) -> None:
        self.state, self.holder, self.suspect, self.is_expired = state, "", suspect, False

    def shown(self) -> tuple:
        held = self.state == "running"
        return (self.state, self.token, self.holder, held, self.attempts, self.crashes, self.suspect)


class Jobs(RuleBasedStateMachine):
    leases = Bundle("leases")

    @initialize()
    def begin(self):
        for model in (Attempt, DeadLetter, ErrorGroup, Job, Queue):
            model.objects.all().delete()
        self.jobs: dict[int, Model] = {}
        self.tokens: dict[int, int] = {}
        self.paused = False
        self.clock = self.count = 0

    # What happens

    @rule(priority=st.sampled_from([0, 0, 5]), is_delayed=st.booleans())
    def enqueue(self, priority, is_delayed):
        task = tasks.add.using(priority=priority, run_after=timedelta(hours=1) if is_delayed else None)
        job_id = int(task.enqueue(1).id)
        Job.objects.filter(pk=job_id).update(max_crashes=MAX_CRASHES)
        self.count += 1
        self.jobs[job_id] = Model(
            job_id, self.count, priority, state="scheduled" if is_delayed else "ready", place=self.tick()
        )

    @rule(target=leases, worker=WORKERS, limit=st.integers(1, 4), suspects=st.booleans())
    def claim(self, worker, limit, suspects):
        ready = [job for job in self.jobs.values() if job.state == "ready" and job.suspect == suspects]
        expected = sorted(ready, key=lambda job: (-job.priority, job.place, job.id))[: 0 if self.paused else limit]

        found = storage().claim(worker, "default", limit, LEASE, suspects)

        assert [lease.id for lease in found] == [job.id for job in expected]
        for job in expected:
            job.state, job.holder, job.token, job.is_expired = "running", worker, job.token + 1, False
        return multiple(*found)

    @rule(lease=leases, name=st.sampled_from(sorted(OUTCOMES)))
    def settle(self, lease, name):
        """Offer an outcome, whether the lease is still ours or was lost long ago."""
        job, outcome = self.jobs.get(lease.id), OUTCOMES[name]
        is_ours = job is not None and job.is_held_by(lease)

        accepted = storage().settle([settlement(lease, outcome, lease.claimed_at, lease.claimed_at)])

        assert accepted == ({lease.id} if is_ours else set())
        if is_ours:
            self.ended_as(job, lease, name)

    @rule(lease=leases)
    def complete(self, lease):
        job = self.jobs.get(lease.id)
        is_ours = job is not None and job.is_held_by(lease)

        accepted = storage().complete([Success(lease, "7", 0.0, 0.1)])

        assert accepted == ({lease.id} if is_ours else set())
        if is_ours:
            self.ended_as(job, lease, "succeeded")
        assert not is_ours or storage().was_settled(lease.id, lease.token)

    @rule(given=consumes(leases))
    def forget(self, given):
        """A worker dies, and with it what it knew."""

    @rule(worker=WORKERS)
    def renew(self, worker):
        mine = {job.id: job for job in self.jobs.values() if job.state == "running" and job.holder == worker}

        found = {row.id: row for row in storage().renew(worker, LEASE)}

        assert {row.id: row.token for row in found.values()} == {job.id: job.token for job in mine.values()}
        for job in mine.values():
            assert found[job.id].renewed
            assert found[job.id].cancel_requested == job.cancel_requested
            job.is_expired = False

    @rule(data=st.data())
    @precondition(lambda self: any(job.state == "running" for job in self.jobs.values()))
    def expire(self, data):
        job = data.draw(st.sampled_from([job for job in self.jobs.values() if job.state == "running"]))
        Job.objects.filter(pk=job.id).update(lease_expires_at=F("lease_expires_at") - timedelta(hours=1))
        job.is_expired = True

    @rule()
    def reap(self):
        expired = {job.id for job in self.jobs.values() if job.is_expired}

        done = lifecycle.reap()

        assert {s.lease.id for s in done} == expired
        for job_id in sorted(expired):
            self.lost(self.jobs[job_id], charged=self.jobs[job_id].suspect)

    @rule(worker=WORKERS, data=st.data())
    def die(self, worker, data):
        """A process dies and its supervisor takes back what it held: some of it ran, some had ended, some waited."""
        mine = [job for job in self.jobs.values() if job.state == "running" and job.holder == worker]
        fates = {job.id: data.draw(st.sampled_from(["ran", "ended", "waited"])) for job in mine}
        running = {job.id: job.token for job in mine if fates[job.id] == "ran"}
        ended = {(job.id, job.token) for job in mine if fates[job.id] == "ended"}

        lifecycle.take_back_lost(worker, Remains(running, ended))

        for job in mine:
            if fates[job.id] == "ran":
                self.lost(job, charged=len(running) == 1)
            else:
                job.end_lease("ready", job.suspect)
                job.place = self.tick()
                if fates[job.id] == "ended":
                    job.notes["interrupted"] += 1

    @rule()
    def promote(self):
        """The time of some scheduled jobs has come."""
        due = [job for job in self.jobs.values() if job.state == "scheduled" and job.number % 2]
        Job.objects.filter(pk__in=[job.id for job in due]).update(run_after=F("run_after") - timedelta(hours=9))

        assert storage().promote(1000) == len(due)

        place = self.tick()
        for job in due:
            job.state, job.place = "ready", place

    @rule(data=st.data())
    @precondition(lambda self: any(job.letters for job in self.jobs.values()))
    def replay(self, data):
        """Replay some dead letter of a job, which may be an old one, or of a job that lives."""
        job = data.draw(st.sampled_from([job for job in self.jobs.values() if job.letters]))
        letters = list(DeadLetter.objects.filter(job=job.id).order_by("pk"))
        assert len(letters) == job.letters
        letter = data.draw(st.sampled_from(letters))
        may = job.state == "dead" and letter is letters[-1]

        report = lifecycle.replay([letter], by="somebody")

        assert bool(report.done) == may
        if may:
            job.state, job.crashes, job.cancel_requested, job.place = "ready", 0, False, self.tick()

    @rule(data=st.data())
    @precondition(lambda self: self.jobs)
    def cancel(self, data):
        job = data.draw(st.sampled_from(list(self.jobs.values())))

        report = lifecycle.cancel([job.id])

        assert bool(report.done) == (job.state not in ENDED)
        if job.state in ("scheduled", "ready"):
            job.state = "cancelled"
        elif job.state == "running":
            job.cancel_requested = True

    @rule()
    def pause(self):
        lifecycle.pause("default")
        self.paused = True

    @rule()
    def resume(self):
        lifecycle.resume("default")
        self.paused = False

    @rule(data=st.data())
    @precondition(lambda self: any(job.state in ENDED for job in self.jobs.values()))
    def prune(self, data):
        old = data.draw(st.sampled_from([job for job in self.jobs.values() if job.state in ENDED]))
        Job.objects.filter(pk=old.id).update(finished_at=F("finished_at") - timedelta(days=2))

        deleted, _ = storage().prune_jobs(0, 1000, KEEP)

        assert deleted == 1
        del self.jobs[old.id]

    # What follows

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def ended_as(self, job: Model, lease: Lease, name: str) -> None:
        states = {"retried": "scheduled", "snoozed": "scheduled", "released": "ready", "interrupted": "ready"}
        keeps_suspicion = name in ("released", "interrupted")
        job.end_lease(states.get(name, name), keeps_suspicion and lease.suspect)
        if name in ("succeeded", "retried", "dead", "cancelled"):
            job.attempts += 1
        if note := {"retried": "failed", "dead": "failed", "cancelled": name, "interrupted": name}.get(name):
            job.notes[note] += 1
        if job.state == "ready":
            job.place = self.tick()
        job.letters += name == "dead"

    def lost(self, job: Model, charged: bool) -> None:
        job.crashes += charged
        job.end_lease("ready", suspect=True)
        job.notes["lost"] += 1
        job.place = self.tick()
        if charged and job.crashes >= MAX_CRASHES:
            job.state = "dead"
            job.letters += 1

    # What always holds

    @invariant()
    def the_rows_are_what_the_rules_say(self):
        rows = Job.objects.all()
        found = {
            job.pk: (
                *(job.state, job.lease_token, job.leased_by, job.lease_expires_at is not None),
                *(job.attempts, job.crashes, job.suspect),
            )
            for job in rows
        }

        assert found == {job.id: job.shown() for job in self.jobs.values()}

    @invariant()
    def a_token_never_falls(self):
        tokens = dict(Job.objects.values_list("pk", "lease_token"))
        assert all(tokens[pk] >= before for pk, before in self.tokens.items() if pk in tokens)
        self.tokens = tokens

    @invariant()
    def every_bad_run_left_a_note_and_every_death_a_letter(self):
        notes = Counter(Attempt.objects.values_list("job", "outcome"))
        assert notes == Counter({(job.id, name): n for job in self.jobs.values() for name, n in job.notes.items()})
        letters = Counter(DeadLetter.objects.values_list("job", flat=True))
        assert letters == Counter({job.id: job.letters for job in self.jobs.values() if job.letters})
        unanswered = set(DeadLetter.objects.filter(replayed_at=None).values_list("job", flat=True))
        assert unanswered == {job.id for job in self.jobs.values() if job.state == State.DEAD}


@pytest.mark.django_db
def test_storage_and_lifecycle_do_what_the_model_says():
    run_state_machine_as_test(
        Jobs,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
