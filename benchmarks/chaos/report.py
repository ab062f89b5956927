"""One table of what came of all scenarios, in Markdown: a row for each on each database, its seeds together."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from statistics import fmean

from .judge import Verdict

HEAD = (
    *("scenario", "database", "seeds", "verdict", "bites", "fed", "unsure", "finished", "dead", "waiting", "attempts"),
    *("raw repeats", "guarded repeats", "lost", "stuck", "killed: runs again, s", "outage: rate back, s"),
    "jobs/s before, during, after",
)
WORDS = ("ERROR", "BROKEN", "VACUOUS", "held")  # the worst first


def table(verdicts: Sequence[Verdict]) -> str:
    groups = groupby(verdicts, key=lambda verdict: (verdict.database, verdict.scenario))
    rows = [HEAD, *(cells(list(group)) for _, group in groups)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    lines.insert(1, f"| {' | '.join('-' * width for width in widths)} |")
    return "\n".join(lines)


def cells(seeds: Sequence[Verdict]) -> tuple[str, ...]:
    """Return what all seeds of a scenario came to: sums, the longest recovery, the mean rates, the worst word."""
    first = seeds[0]
    numbers = [
        sum(sum(v.bites.values()) for v in seeds),
        *(sum(getattr(v, name) for v in seeds) for name in SUMMED),
    ]
    return (
        first.scenario,
        first.database,
        ", ".join(str(v.seed) for v in seeds),
        min((v.word for v in seeds), key=WORDS.index),
        *map(str, numbers),
        longest(v.recovery for v in seeds),
        longest(v.back for v in seeds),
        ", ".join(f"{fmean(v.rates[part] for v in seeds):.0f}" for part in range(3)),
    )


def longest(seconds: Iterable[float | None]) -> str:
    known = [s for s in seconds if s is not None]
    return f"{max(known):.1f}" if known else "-"


SUMMED = ("fed", "unsure", "finished", "dead", "waiting", "attempts", "raw_repeats", "guarded_repeats", "lost", "stuck")
