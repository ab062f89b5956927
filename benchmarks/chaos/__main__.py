"""`make chaos`, or `python -m benchmarks.chaos --help`: cause faults, and say whether the promise was kept."""

import argparse
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..processes import ROOT
from .faults import Harm
from .judge import Judge, Verdict, recovery_after_kills, recovery_after_outages, runs_that_went_on
from .report import table
from .scenarios import ALL, BOTH, Scenario
from .server import Server, running_server
from .world import World, a_world

BEFORE_SECONDS, AFTER_SECONDS = 6.0, 12.0  # of feeding before the first fault and after the last
SURROUNDINGS_SECONDS = 40.0  # of a run, beside its faults, about
LOOK_SECONDS = 0.25
MODEL_TEST = "tests/storage/test_model.py"
MIX, MODEL = "mix", "model"
MODEL_EXAMPLES = 300  # random histories of forty steps
MIXED_SECONDS = 12.0  # of each fault in the mix, at least
FAILURES, LOOPS = "failures logged", ("database", "heartbeat", "housekeeping")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description="Run worker trees under faults and check that no job is lost, stuck, or has an effect too often. "
        "Everything runs on this machine, on databases started for this. Exits 1 unless the promise was kept.",
    )
    add = parser.add_argument
    add("--list", action="store_true", help="name the scenarios and do nothing")
    add("--scenario", nargs="+", default=[], metavar="NAME", help="only these; --list names them")
    add("--db", choices=[*BOTH, "both"], default="both", help="default: both")
    add("--seed", nargs="+", type=int, default=[1], metavar="N", help="of the random schedule; several: one run each")
    add(
        "--seconds",
        type=seconds,
        default=30.0,
        metavar="S",
        help="how long faults go on, if no fault needs longer (12 to 24 s); default: 30",
    )
    add("--json", metavar="FILE", help="write the verdicts for machines; -: to stdout, and no table")
    add("--logs", metavar="DIRECTORY", help="keep what the workers said of runs that broke the promise")
    found = parser.parse_args(given)
    if found.list:
        return found
    # Not only when all is over.
    if found.json and Path(found.json).is_dir():
        parser.error(f"{found.json} is a directory")
    for path in filter(None, (found.logs, found.json if found.json != "-" else None)):
        directory = Path(path) if path == found.logs else Path(path).parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"no directory can be made for {path}: {error.strerror}")
    return found


def seconds(text: str) -> float:
    found = float(text)
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text}")
    return found


def run(scenario: Scenario, vendor: str, seed: int, seconds: float, server: Server | None, logs: str | None) -> Verdict:
    """Run one scenario in a world of its own."""
    verdict = Verdict(scenario.name, vendor, seed)
    with a_world(vendor, seed, server) as world:
        try:
            act(scenario, world, seconds, verdict)
        except Exception as error:
            traceback.print_exc()
            verdict.error = repr(error)
        if logs and verdict.word != "held":
            path = Path(logs) / f"{scenario.name}-{vendor}-{seed}.log"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(world.said())
    return verdict


def act(scenario: Scenario, world: World, seconds: float, verdict: Verdict) -> None:
    prepare(scenario, world)
    world.feed(scenario.rate, scenario.extras)
    began = time.monotonic()
    world.pass_time(BEFORE_SECONDS)
    before, first = world.footprint(), time.monotonic()
    fault = scenario.fault(world)
    try:
        until = first + max(seconds, scenario.least_seconds)
        while (left := until - time.monotonic()) > 0:
            world.pass_time(min(left, next(fault)))
    finally:
        fault.close()
    last = time.monotonic()
    world.pass_time(AFTER_SECONDS)
    stopped = time.monotonic()
    world.stop_feeding()
    wait_for_quiet(world, scenario.quiet_seconds)
    verdict.leak = before.has_grown_to(world.footprint())
    verdict.broken += world.dismiss_trees()
    world.ledger.catch_up()
    rate = world.ledger.rate
    # The feeder itself takes a second to start.
    verdict.rates = rate(began + 2, first), rate(first, last), rate(last + 2, stopped)
    verdict.broken += has_stopped_feeding(world, first, last, stopped)
    hit, verdict.recovery = recovery_after_kills(world)
    verdict.back = recovery_after_outages(world, verdict.rates[0], stopped)
    if verdict.back == float("inf"):
        verdict.broken.append("the rate of before did not come back")
    verdict.bites = {"runs hit": hit} if world.record.kills else {}
    verdict.bites |= world.record.bites
    if world.record.thaws:
        verdict.bites["runs that went on"] = runs_that_went_on(world)
    if world.record.restored or scenario.proof == FAILURES:
        verdict.bites[FAILURES] = sum(world.said().count(f"{loop} failed") for loop in LOOPS)
    if scenario.proof:
        verdict.bites = {scenario.proof: verdict.bites.get(scenario.proof, 0)}
    Judge(world, verdict, world.vendor in scenario.may_wait, scenario.loses).judge()


def has_stopped_feeding(world: World, first: float, last: float, stopped: float) -> list[str]:
    """Say whether after the fault jobs were not fed as before it."""
    before, after = world.ledger.fed(first - BEFORE_SECONDS + 2, first), world.ledger.fed(last + 2, stopped)
    return [f"{before:.0f} jobs/s were fed before the fault, and {after:.0f} after it"] if after < before / 10 else []


def prepare(scenario: Scenario, world: World) -> None:
    world.arguments, world.lease_seconds, world.grace_seconds = scenario.arguments(), scenario.lease, scenario.grace
    if scenario.prepare:
        scenario.prepare(world)
    world.start_tree()
    world.environ.pop("CHAOS_CODE", None)
    world.start_tree()
    world.wait_until_ready()


def wait_for_quiet(world: World, seconds: float) -> None:
    """Wait until nothing is left to do, but not for ever: what is left then is stuck."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        world.pass_time(LOOK_SECONDS)
        if not world.database.rows(OPEN[world.vendor]):
            return


OPEN = {
    "postgresql": "SELECT 1 FROM jobs_job WHERE state IN ('ready', 'running') OR state = 'scheduled' "
    "AND run_after < now() + interval '5 minutes' LIMIT 1",
    "sqlite": "SELECT 1 FROM jobs_job WHERE state IN ('ready', 'running') OR state = 'scheduled' "
    "AND run_after < datetime('now', '+5 minutes') LIMIT 1",
}


def run_model(vendor: str, seed: int, server: Server | None) -> Verdict:
    """Run the model of storage and lifecycle for long: `make test` runs it shortly."""
    verdict = Verdict(MODEL, vendor, seed)
    url = {"DATABASE_URL": server.url("postgres")} if server else {}
    environ = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}", MODEL_TEST]
    command += ["-o", "faulthandler_timeout=0"]  # it is one long test
    done = subprocess.run(
        command, cwd=ROOT, env=environ | url | {"MODEL_EXAMPLES": str(MODEL_EXAMPLES)}, capture_output=True, text=True
    )
    verdict.bites = {"histories": MODEL_EXAMPLES if re.search(r"\b[1-9]\d* passed", done.stdout) else 0}
    if done.returncode:
        verdict.broken.append(f"the rows are not what the rules say: {done.stdout[-3000:]}{done.stderr[-1000:]}")
    return verdict


def mixed(scenarios: Sequence[Scenario]) -> Scenario:
    """Return one scenario of all those that need nothing prepared, in turn and in a random order."""
    plain = [s for s in scenarios if not s.prepare and not s.extras]

    def fault(world: World) -> Harm:
        chosen = [s for s in plain if world.vendor in s.vendors]
        order = itertools.chain.from_iterable(world.rng.sample(chosen, len(chosen)) for _ in itertools.count())
        for scenario in order:
            until = time.monotonic() + max(MIXED_SECONDS, scenario.least_seconds)
            inner = scenario.fault(world)
            try:
                while (left := until - time.monotonic()) > 0:
                    yield min(left, next(inner))
            finally:
                inner.close()

    return Scenario(MIX, "those that need nothing prepared, in turn, in a random order", fault)


def no_fault(world: World) -> Harm:
    yield 0.0


MODEL_SCENARIO = Scenario(MODEL, "random histories of storage and lifecycle beside a model of them", no_fault)


SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def leave(number: int, frame: object) -> None:
    """End, once: another signal must not keep it from stopping what it has started."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    say("interrupted: stopping what was started")
    sys.exit(128 + number)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    # Whoever stops this stops the servers and workers that it has started.
    for number in SIGNALS:
        signal.signal(number, leave)
    given = arguments()
    known = {scenario.name: scenario for scenario in [*ALL, MODEL_SCENARIO, mixed(ALL)]}
    if given.list:
        print("\n".join(f"{s.name:22} {', '.join(s.vendors):19} {s.title}" for s in known.values()))
        return 0
    if unknown := [name for name in given.scenario if name not in known]:
        say(f"no scenario is called {unknown[0]!r}; --list names them")
        return 2
    scenarios = [known[name] for name in given.scenario] or [*ALL, MODEL_SCENARIO]
    vendors = BOTH if given.db == "both" else (given.db,)
    runs = [run for run in itertools.product(vendors, scenarios, given.seed) if run[0] in run[1].vendors]
    if not runs:
        say("none of these scenarios is for this database")
        return 2
    say(f"{len(runs)} runs, of some {given.seconds + SURROUNDINGS_SECONDS:.0f} s each or more")
    verdicts: list[Verdict] = []
    try:
        verdicts.extend(judged(runs, given))
    finally:
        # Whoever is interrupted shows what there is.
        if verdicts:
            publish(verdicts, given.json)
    return 0 if all(verdict.word == "held" for verdict in verdicts) else 1


def judged(runs: Sequence[tuple[str, Scenario, int]], given: argparse.Namespace) -> Iterator[Verdict]:
    """Run scenarios on their databases, with each seed, and say at once what came of each."""
    with ExitStack() as stack:
        server = stack.enter_context(running_server()) if any(run[0] == "postgresql" for run in runs) else None
        for vendor, scenario, seed in runs:
            say(f"{scenario.name} on {vendor}, seed {seed}: {scenario.title}")
            on = server if vendor == "postgresql" else None
            if scenario is MODEL_SCENARIO:
                verdict = run_model(vendor, seed, on)
            else:
                verdict = run(scenario, vendor, seed, given.seconds, on, given.logs)
            say(f"    {verdict.word} {verdict.bites} {verdict.error}")
            for line in verdict.broken:
                say(f"    {line}")
            yield verdict


def publish(verdicts: Sequence[Verdict], json_path: str | None) -> None:
    text = json.dumps([verdict.for_machines() for verdict in verdicts], indent=1)
    print(text if json_path == "-" else table(verdicts))
    if json_path and json_path != "-":
        Path(json_path).write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
