"""Whether the promise was kept: what the ledger tells, held against what the database says."""

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from . import ledger
from .world import World

DATABASE_EFFECTS = frozenset({"transactional", "recorded"})
RAW = frozenset({"raw", "araw", "flaky", "long", "brand_new", "changed"})
# How jobs die that misbehave, and of the others those that nobody knows the truth about.
DEATHS: dict[str, frozenset[str]] = {
    "charge": frozenset({"uncertain"}),
    "exits": frozenset({"worker_lost"}),
    "segfaults": frozenset({"worker_lost"}),
    "allocates": frozenset({"worker_lost"}),
    "loops": frozenset({"timeout"}),
    "swallows": frozenset({"timeout"}),
    "leaves": frozenset({"attempts_exhausted", "permanent_error"}),
    "interrupts": frozenset({"attempts_exhausted", "permanent_error"}),
    "speechless": frozenset({"attempts_exhausted"}),
    "unprintable": frozenset({"permanent_error"}),
}
MUST_DIE = frozenset(DEATHS) - {"charge"}
KILLERS = frozenset({"exits", "segfaults", "allocates"})
BAD = ("failed", "lost", "interrupted")
SHOWN = 5


@dataclass
class Job:
    id: int
    n: int
    kind: str
    state: str
    attempts: int
    crashes: int
    leased: bool
    is_far: bool = False  # scheduled for later than anybody waits, though not for longer than a step of the clock
    outcomes: Counter[str] = field(default_factory=Counter)
    reason: str = ""
    message: str = ""

    @property
    def bad_runs(self) -> int:
        return sum(self.outcomes[name] for name in BAD)


@dataclass
class Verdict:
    """What came of a scenario. Units: seconds, jobs/s, MiB."""

    scenario: str
    database: str
    seed: int
    fed: int = 0
    unsure: int = 0
    finished: int = 0
    dead: int = 0
    waiting: int = 0
    attempts: int = 0
    raw_repeats: int = 0
    guarded_repeats: int = 0
    lost: int = 0
    stuck: int = 0
    recovery: float | None = None
    back: float | None = None
    rates: tuple[float, float, float] = (0.0, 0.0, 0.0)
    bites: dict[str, int] = field(default_factory=dict)
    leak: str = ""
    broken: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def word(self) -> str:
        if self.error:
            return "ERROR"
        if self.broken:
            return "BROKEN"
        return "held" if any(self.bites.values()) else "VACUOUS"

    def for_machines(self) -> dict[str, Any]:
        # JSON has no infinity: a rate that did not come back is none, and one of the lines in `broken` says so.
        back = None if self.back == float("inf") else self.back
        return asdict(self) | {"verdict": self.word, "back": back}


FAR = {
    "postgresql": "run_after BETWEEN now() + interval '5 minutes' AND now() + interval '125 minutes'",
    "sqlite": "run_after BETWEEN datetime('now', '+5 minutes') AND datetime('now', '+125 minutes')",
}


def jobs_of(world: World) -> list[Job]:
    number = {"postgresql": "(kwargs ->> 'n')::bigint", "sqlite": "json_extract(kwargs, '$.n')"}[world.vendor]
    rows = world.database.rows(
        f"SELECT id, {number}, task_path, state, attempts, crashes, lease_expires_at IS NOT NULL, "
        f"COALESCE(state = 'scheduled' AND {FAR[world.vendor]}, FALSE) FROM jobs_job"
    )
    jobs = {
        job_id: Job(job_id, n, path.rpartition(".")[2], state, attempts, crashes, bool(leased), bool(is_far))
        for job_id, n, path, state, attempts, crashes, leased, is_far in rows
    }
    for job_id, outcome in world.database.rows("SELECT job_id, outcome FROM jobs_attempt"):
        jobs[job_id].outcomes[outcome] += 1
    for job_id, reason, text in world.database.rows("SELECT job_id, reason, message FROM jobs_deadletter ORDER BY id"):
        jobs[job_id].reason, jobs[job_id].message = reason, text
    return list(jobs.values())


class Judge:
    """Collects what is wrong, each finding once, with the first few jobs that show it."""

    def __init__(self, world: World, verdict: Verdict, may_wait: bool, loses: bool = True) -> None:
        self.world, self.verdict, self.may_wait, self.loses = world, verdict, may_wait, loses
        self.jobs = jobs_of(world)
        self.by_n = {job.n: job for job in self.jobs}
        self.outside = world.ledger.effects()
        self.repeats = world.ledger.repeated_on_record()
        self.runs = Counter(entry.n for entry in world.ledger.of(ledger.STARTED))
        self.rows = Counter(dict(world.database.rows("SELECT n, count(*) FROM chaos_effect GROUP BY n")))
        self.findings: defaultdict[str, list[str]] = defaultdict(list)

    def judge(self) -> None:
        self.count()
        self.check_that_none_is_lost()
        for job in self.jobs:
            self.check_end(job)
            self.check_effects(job)
            self.check_books(job)
        if self.verdict.leak:
            self.verdict.broken.append(f"workers have grown: {self.verdict.leak}")
        for what, which in self.findings.items():
            more = f" and {len(which) - SHOWN} more" if len(which) > SHOWN else ""
            self.verdict.broken.append(f"{what}: {', '.join(which[:SHOWN])}{more}")

    def find(self, what: str, job: Job, more: str = "") -> None:
        self.findings[what].append(f"job {job.id} ({job.kind} {job.n}{more and f', {more}'})")

    def count(self) -> None:
        v = self.verdict
        states = Counter(job.state for job in self.jobs)
        v.fed, v.finished, v.dead = len(self.world.ledger.of(ledger.FED)), states["succeeded"], states["dead"]
        v.unsure = len(self.world.ledger.of(ledger.UNSURE))
        v.waiting = states["scheduled"] + states["ready"]
        v.attempts = sum(job.attempts for job in self.jobs)
        v.raw_repeats = sum(max(0, self.outside[job.n] - 1) for job in self.jobs if job.kind in RAW | {"mail"})
        v.guarded_repeats = sum(max(0, self.rows[job.n] - 1) for job in self.jobs if job.kind in DATABASE_EFFECTS)
        v.guarded_repeats += sum(max(0, self.outside[job.n] - 1) for job in self.jobs if job.kind == "charge")
        v.guarded_repeats += sum(self.repeats[job.n] for job in self.jobs if job.kind == "mail")
        v.stuck = states["running"]

    def check_that_none_is_lost(self) -> None:
        for entry in self.world.ledger.of(ledger.FED):
            if entry.n not in self.by_n:
                self.verdict.lost += 1
                self.findings["a job that was enqueued is gone"].append(f"{entry.kind} {entry.n}")
        for n in (self.outside.keys() | self.rows.keys()) - self.by_n.keys():
            self.findings["an effect of no job"].append(str(n))

    def check_end(self, job: Job) -> None:
        if job.state == "running" or job.leased:
            self.find("a job is stuck", job, job.state)
        elif job.state in ("scheduled", "ready"):
            if not (self.may_wait and job.is_far):
                self.find("a job still waits", job, job.state)
        elif job.state == "dead":
            if job.reason not in DEATHS.get(job.kind, ()):
                self.find("a job died that should not, or of something else", job, f"{job.reason}: {job.message[:80]}")
            elif job.reason == "uncertain" and not self.loses:
                self.find("a charge is in doubt, and nothing had cut it off", job)
        elif job.state != "succeeded":
            self.find("a job ended in a way that nobody asked for", job, job.state)
        elif job.kind in MUST_DIE:
            self.find("a job should have died", job, job.state)

    def check_effects(self, job: Job) -> None:
        inside, outside, done = self.rows[job.n], self.outside[job.n], job.state == "succeeded"
        if job.kind in DATABASE_EFFECTS and (inside != 1 if done else inside > 1):
            self.find(f"an effect in the database happened {inside} times", job, job.state)
        if job.kind == "transactional" and not done and inside:
            self.find("an effect committed without its job", job, job.state)
        if job.kind == "leaves_open" and inside:
            self.find("what a task left open was committed", job)
        if job.kind == "charge" and (outside > 1 or (not outside and done)):
            self.find(f"a guarded outside effect happened {outside} times", job, job.state)
        # A run that ended badly may have had its effect; every other run must be on record.
        if job.kind in RAW | {"mail"} and outside > 1 + job.bad_runs:
            self.find(f"an effect happened {outside} times, and only {job.bad_runs} runs ended badly", job)
        if job.kind in RAW and self.runs[job.n] > job.bad_runs + done:
            self.find(f"a job ran {self.runs[job.n]} times, and only {job.bad_runs} runs ended badly", job, job.state)
        if self.repeats[job.n]:
            self.find(f"an effect on record was repeated {self.repeats[job.n]} times", job)
        if job.kind in RAW | {"mail"} and done and not outside:
            self.find("a job succeeded without its effect", job)

    def check_books(self, job: Job) -> None:
        raised = job.outcomes["failed"]
        if job.attempts != raised + (job.state == "succeeded"):
            self.find("attempts do not add up", job, f"{job.attempts} attempts, {raised} failed, {job.state}")
        if job.crashes > job.outcomes["lost"]:
            self.find("crashes do not add up", job, f"{job.crashes} crashes, {job.outcomes['lost']} lost")
        if not self.loses and (job.outcomes["lost"] or job.outcomes["interrupted"]):
            self.find("a run was lost or interrupted, and nothing had killed or cut it off", job)
        if job.crashes and self.verdict.scenario == "misbehaviour" and job.kind not in KILLERS:
            self.find("a bystander was charged with a crash", job)


def recovery_after_kills(world: World) -> tuple[int, float | None]:
    """Return how many runs kills have hit, and the longest time until such a job ran again."""
    starts, hit, longest = world.ledger.starts(), 0, None
    for kill in world.record.kills:
        for n in world.ledger.running(kill.pids, kill.moment):
            hit += 1
            if again := [moment for moment in starts[n] if moment > kill.moment]:
                longest = max(longest or 0.0, min(again) - kill.moment)
    return hit, longest


def recovery_after_outages(world: World, rate_before: float, until: float) -> float | None:
    """Return the longest time from the end of an outage until jobs end at nine tenths of the rate before it.

    Infinite when that was not before the feed ended, at `until`.
    """
    longest = None
    for moment in world.record.restored:
        seconds = 0.0
        while world.ledger.rate(moment + seconds, moment + seconds + 1.0) < 0.9 * rate_before:
            seconds += 0.1
            if moment + seconds + 1.0 > until:
                seconds = float("inf")
                break
        longest = max(longest or 0.0, seconds)
    return longest


def runs_that_went_on(world: World) -> int:
    """Return how many runs were heard of again after they had been frozen for longer than their lease."""
    found = 0
    for thaw in world.record.thaws:
        if thaw.resumed_at - thaw.frozen_at > world.lease_seconds:
            frozen = world.ledger.running(thaw.pids, thaw.frozen_at)
            found += world.ledger.resumed(thaw.pids, frozen, thaw.resumed_at)
    return found
