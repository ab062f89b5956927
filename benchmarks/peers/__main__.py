"""`make bench-peers`, or `python -m benchmarks.peers --help`: measure us and our peers in turn, print one table."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import psycopg

from benchmarks import servers
from benchmarks.table import number

from . import table
from .bench import Bench, Failed, benched
from .cases import ALL, Case, matching
from .environments import Unavailable, dotted, pinned, version_of
from .systems import OURS, PEERS, System
from .table import Row


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Measure the queue and its peers.")
    add = parser.add_argument
    add("--list", action="store_true", help="name the cases and do nothing")
    add("--peer", nargs="+", choices=[peer.name for peer in PEERS], default=[], help="only these; default: all")
    add("--case", nargs="+", default=[], metavar="NAME", help="only these: drain, drain.noop, drain.row.1")
    add("--pairs", type=int, default=5, metavar="N", help="runs of each case and system, in turn; default: 5")
    add("--scale", type=float, default=1.0, metavar="F", help="so many of the jobs of the full size; default: 1")
    add("--json", metavar="FILE", help="also write every figure")
    add("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    cases = matching(given.case)
    if given.list:
        for case in ALL:
            print(f"{case.name:22} {case.titles[0]}")
        return 0
    wanted = [OURS, *(peer for peer in PEERS if not given.peer or peer.name in given.peer)]
    with ExitStack() as stack:
        benches = started(wanted, stack.enter_context(servers.postgresql()), stack)
        rows = [row for case in cases for row in measured(case, benches, given.pairs, given.scale)]
        head = machine(benches, given.scale)
    rows += best_rows(rows, [bench.system.name for bench in benches])
    show(rows, benches, head, given)
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"machine": head, "rows": [for_machines(row) for row in rows]}, file, indent=1)
    return 1 if any(None in runs for row in rows for runs in row.runs.values()) else 0


def started(systems: Sequence[System], server_url: str, stack: ExitStack) -> list[Bench]:
    """Return those that can be measured here; of the others say why not."""
    benches = []
    for system in systems:
        say(f"{system.name}: environment and tables")
        try:
            benches.append(stack.enter_context(benched(system, server_url)))
        except Unavailable as error:
            say(f"SKIPPED {system.name}: {error}")
    return benches


def measured(case: Case, benches: Sequence[Bench], pairs: int, scale: float) -> list[Row]:
    """Return the rows of a case. The systems take turns, so that each pair is measured within the same minute."""
    rows = [Row(case.name, title, case.unit) for title in case.titles]
    taking_part = [bench for bench in benches if case.takes(bench.system.name)]
    sizes = ", ".join(f"{bench.system.name} {case.size(bench.system.name, scale)}" for bench in taking_part)
    say(f"{case.name}: {sizes}")
    for _ in range(pairs):
        for bench in taking_part:
            for row, figure in zip(rows, figures(case, bench, scale), strict=True):
                row.add(bench.system.name, figure)
    return rows


def figures(case: Case, bench: Bench, scale: float) -> list[float] | list[None]:
    """Return what one run gives; a run that fails says so and does not take the others along."""
    begun = time.monotonic()
    try:
        found = case.figures(bench, scale)
    except (Failed, psycopg.Error) as error:
        say(f"FAILED {case.name} on {bench.system.name}: {error}")
        return [None] * len(case.titles)
    numbers = " ".join(number(figure) for figure in found)
    say(f"    {bench.system.name:16} {numbers} {case.unit}   ({time.monotonic() - begun:.0f} s)")
    return found


def best_rows(rows: Sequence[Row], systems: Sequence[str]) -> list[Row]:
    drains = [row for row in rows if row.case.startswith("drain.noop.")]
    return [table.best_of(drains, "no-op, each at its best", systems)] if len(drains) > 1 else []


def machine(benches: Sequence[Bench], scale: float) -> str:
    server = benches[0].value("SHOW server_version").split()[0]
    versions = [f"PostgreSQL {server}", f"Python {platform.python_version()}", f"Django {version('Django')}"]
    peers = [described(bench) for bench in benches[1:]]
    return ", ".join([f"{os.cpu_count()} cores", *versions, *peers, f"scale {scale:g}"])


def described(bench: Bench) -> str:
    python = version_of(bench.python)
    other = f" on Python {dotted(python)}" if python and python != sys.version_info[:2] else ""
    return f"{bench.system.name} {pinned(bench.system)}{other}"


def show(rows: Sequence[Row], benches: Sequence[Bench], head: str, given: argparse.Namespace) -> None:
    lines = table.cells(rows, [bench.system.name for bench in benches])
    form = table.markdown if given.markdown else table.text
    print(head, form(lines), table.legend(rows, given.pairs), sep="\n\n")


def for_machines(row: Row) -> dict[str, Any]:
    ratios = {name: row.ratio(OURS.name, name) for name in row.runs if name != OURS.name}
    return asdict(row) | {"ratios": ratios}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
