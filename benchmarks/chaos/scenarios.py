"""The scenarios by name: which fault, on which databases, under which settings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .faults import Fault, postgresql, processes, sqlite
from .kinds import MISBEHAVING, UNTIDY
from .world import BUSY_SECONDS, World

BOTH = ("postgresql", "sqlite")
POSTGRESQL, SQLITE = BOTH[:1], BOTH[1:]


@dataclass(frozen=True)
class Scenario:
    """Units: seconds, jobs/s."""

    name: str
    title: str
    fault: Fault
    vendors: tuple[str, ...] = BOTH
    rate: float = 60.0
    lease: float = 6.0
    grace: float = 10.0
    extras: dict[str, int] = field(default_factory=dict)  # kinds of jobs, and how often one is fed: every so many
    prepare: Callable[[World], None] | None = None
    quiet_seconds: float = 60.0  # longest wait for the last job after the feed has ended
    proof: str = ""  # the bite that shows that the fault hit, where there are several
    least_seconds: float = 12.0  # a shorter time would cut the fault off
    loses: bool = True  # whether runs may be lost or interrupted by it
    may_wait: tuple[str, ...] = ()  # databases on which jobs may still wait at the end

    def arguments(self) -> tuple[str, ...]:
        given = {"--processes": 2, "--threads": 4, "--lease": self.lease, "--grace": self.grace, "--poll-interval": 0.5}
        return tuple(str(part) for pair in given.items() for part in pair)


def proxied(world: World) -> None:
    world.put_proxy_before_the_database()


def humble(world: World) -> None:
    world.is_humble = True


def with_a_clock(world: World) -> None:
    world.clock_path = world.directory / "clock"
    world.clock_path.write_text("0")
    shim = Path(__file__).resolve().parent / "clock"
    world.environ |= {"CHAOS_CLOCK": str(world.clock_path), "PYTHONPATH": str(shim), "TIME_ZONE": "Europe/Berlin"}


def of_two_versions(world: World) -> None:
    world.environ["CHAOS_CODE"] = "old"


ALL = [
    Scenario("kill-child", "kill -9 of a worker process", processes.kill_child),
    Scenario("kill-often", "kill -9 of a worker process every 300 ms", processes.kill_often),
    Scenario("kill-supervisor", "kill -9 of a supervisor", processes.kill_supervisor),
    Scenario("kill-tree", "kill -9 of a whole tree", processes.kill_tree),
    Scenario(
        "freeze",
        "SIGSTOP beyond the lease, then SIGCONT",
        processes.freeze,
        proof="runs that went on",
        least_seconds=24.0,
    ),
    Scenario(
        "database-crash", "immediate shutdown and restart", postgresql.crash_server, POSTGRESQL, proof="failures logged"
    ),
    Scenario(
        "database-outage",
        "20 s without a database",
        postgresql.outage,
        POSTGRESQL,
        proof="failures logged",
        least_seconds=postgresql.OUTAGE_SECONDS,
    ),
    Scenario(
        "connections-cut",
        "all connections ended twice a second",
        postgresql.terminate,
        POSTGRESQL,
        proof="failures logged",
    ),
    Scenario(
        "connections-refused",
        "no connection left",
        postgresql.take_all_connections,
        POSTGRESQL,
        proof="failures logged",
    ),
    Scenario("read-only", "a database that refuses writes", postgresql.read_only, POSTGRESQL, proof="writes refused"),
    Scenario(
        "half-open",
        "connections that fall silent",
        postgresql.deafen,
        POSTGRESQL,
        prepare=proxied,
        proof="connections given up",
    ),
    Scenario(
        "latency", "20 to 200 ms a message", postgresql.slow_down, POSTGRESQL, prepare=proxied, rate=15, loses=False
    ),
    Scenario("lost-replies", "commits whose reply is lost", postgresql.lose_replies, POSTGRESQL, prepare=proxied),
    Scenario(
        "held-transaction", "a transaction held open throughout", postgresql.hold_transaction, POSTGRESQL, loses=False
    ),
    Scenario(
        "locked-rows", "locks on a ready, a running, a queue's row", postgresql.lock_rows, POSTGRESQL, loses=False
    ),
    Scenario("deploys", "SIGTERM and a new tree, every few seconds", processes.deploy, loses=False),
    Scenario(
        "long-jobs",
        "SIGTERM with jobs longer than the grace",
        processes.deploy_over_long_jobs,
        grace=1,
        extras={"long": 25},
    ),
    Scenario("second-signal", "SIGTERM, and another at once", processes.deploy_impatiently, extras={"long": 25}),
    Scenario(
        "misbehaviour",
        "jobs that exit, crash, hang, leak, lie",
        processes.misbehave,
        extras=dict.fromkeys(MISBEHAVING, 240),
        quiet_seconds=120,
    ),
    Scenario(
        "untidiness",
        "jobs that leave connections and transactions",
        processes.untidy,
        extras=dict.fromkeys(UNTIDY, 12),
        loses=False,
    ),
    Scenario(
        "clock",
        "the workers' clock an hour ahead and behind",
        processes.step_clock,
        prepare=with_a_clock,
        least_seconds=20.0,
        may_wait=SQLITE,
    ),
    Scenario(
        "versions",
        "old code beside new",
        processes.upgrade,
        extras={"brand_new": 30, "changed": 30},
        prepare=of_two_versions,
        quiet_seconds=120,
    ),
    Scenario("writers", "six other writers", sqlite.write_beside, SQLITE, loses=False),
    Scenario(
        "long-write",
        "a write longer than the busy time-out",
        sqlite.hold_the_writer,
        SQLITE,
        proof="failures logged",
        least_seconds=BUSY_SECONDS + 4.0,
    ),
    Scenario("disk-full", "no room to write", sqlite.fill_the_disk, SQLITE, proof="failures logged"),
    Scenario(
        "read-only-file",
        "a file that may not be written",
        sqlite.forbid_writing,
        SQLITE,
        prepare=humble,
        proof="writes refused",
    ),
]
