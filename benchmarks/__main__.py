"""`make bench`, or `python -m benchmarks --help`: measure, print one table."""

import argparse
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import django

from . import servers
from .bars import judged
from .bench import BOTH, Bench, Case
from .cases import ALL, matching
from .curve import curve
from .databases import Databases, PostgresDatabases, SQLiteDatabases
from .measuring import Row
from .seeding import migrated
from .table import table


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the queue, each figure beside the limit measured in the same run. "
        "BENCH_DATABASE_URL names a PostgreSQL to use, with the right to create databases; "
        "without it one is started for as long as this lasts.",
    )
    add = parser.add_argument
    add("--list", action="store_true", help="name the cases and do nothing")
    add("--case", nargs="+", default=[], metavar="NAME", help="only these: drain, drain.noop.1x4, drain.*.1x4")
    add("--db", choices=[*BOTH, "both"], default="both", help="default: both")
    add("--runs", type=count, default=3, metavar="N", help="pairs of each case; default: 3")
    add("--scale", type=size, default=1.0, metavar="F", help="how much of the full size; default: 1")
    add("--bars", action="store_true", help="hold the figures against their bars; exit 1 below one")
    add("--json", metavar="FILE", help="write the figures for machines; -: to stdout, and no table")
    add("--svg", metavar="FILE", help="draw the rows of growth")
    found = parser.parse_args(given)
    # Not only when all is measured.
    for path in filter(None, (found.svg, found.json if found.json != "-" else None)):
        if Path(path).is_dir() or not os.access(Path(path).parent, os.W_OK):
            parser.error(f"{path} cannot be written")
    if found.svg and not any(case.name.startswith("growth.") for case in matching(found.case)):
        parser.error("--svg draws the rows of growth, and none of these cases is one: add --case growth")
    return found


def count(text: str) -> int:
    if (found := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text}")
    return found


def size(text: str) -> float:
    if not 0 < (found := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    return found


@contextmanager
def databases_of(vendor: str) -> Iterator[Databases]:
    if vendor == "postgresql":
        with servers.postgresql() as url, closing(PostgresDatabases(url)) as databases:
            yield databases
    else:
        with servers.directory() as path:
            yield SQLiteDatabases(path)


def measure(vendor: str, cases: Sequence[Case], runs: int, scale: float) -> tuple[str, list[Row | None]]:
    """Return the version of a database and what was measured of each case."""
    with databases_of(vendor) as databases:
        base = migrated(databases)
        try:
            bench = Bench(databases, base, runs, scale, lambda text: say(f"    {text}"))
            return databases.version(), [measured(case, bench) for case in cases if vendor in case.vendors]
        finally:
            databases.drop(base)


def measured(case: Case, bench: Bench) -> Row | None:
    """Run a case; one that fails says why and does not take the others along."""
    started = time.monotonic()
    say(f"{case.name} on {bench.databases.vendor}: {case.title}")
    try:
        row = case.run(bench, case)
    except Exception:
        traceback.print_exc()
        return None
    say(f"    {time.monotonic() - started:.0f} s")
    return row


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def machine(versions: Sequence[str], runs: int, scale: float) -> str:
    parts = [f"{os.cpu_count()} cores", f"Python {platform.python_version()}", f"Django {django.__version__}"]
    return ", ".join([*parts, *versions, f"{runs} runs", f"scale {scale:g}"])


def for_machines(row: Row) -> dict[str, Any]:
    return asdict(row) | {"median": row.median, "ratio": row.ratio, "pair_ratios": row.pair_ratios}


def write(head: str, rows: Sequence[Row], given: argparse.Namespace) -> bool:
    """Print and write what was asked for; return whether all bars that were asked for are met."""
    if given.json == "-":
        print(as_json(head, rows))
    else:
        print(head, table(rows), sep="\n\n")
        if given.json:
            Path(given.json).write_text(as_json(head, rows))
    if given.svg:
        Path(given.svg).write_text(curve(rows))
    lines, all_met = judged(rows)
    if given.bars:
        print("", *lines, sep="\n", file=sys.stderr if given.json == "-" else sys.stdout)
    return all_met or not given.bars


def as_json(head: str, rows: Sequence[Row]) -> str:
    return json.dumps({"machine": head, "rows": [for_machines(row) for row in rows]}, indent=1) + "\n"


def main() -> int:
    # Whoever stops this stops the servers and workers that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given = arguments()
    if unknown := [pattern for pattern in given.case if not matching([pattern])]:
        say(f"no case is called {unknown[0]!r}; --list names them")
        return 2
    cases = matching(given.case)
    if given.list:
        print("\n".join(f"{case.name:26} {case.title}" for case in ALL))
        return 0
    versions, found = [], []
    for vendor in BOTH if given.db == "both" else [given.db]:
        version, rows = measure(vendor, cases, given.runs, given.scale)
        versions.append(version)
        found.extend(rows)
    is_good = write(machine(versions, given.runs, given.scale), [row for row in found if row], given)
    return 0 if is_good and all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
