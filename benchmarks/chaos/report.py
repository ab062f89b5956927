"""One table of what came of all scenarios, in Markdown."""

from collections.abc import Sequence

from .judge import Verdict

HEAD = (
    *("scenario", "database", "seed", "verdict", "bites", "fed", "finished", "dead", "attempts", "raw repeats"),
    *("guarded repeats", "lost", "stuck", "recovery s", "jobs/s before, during, after"),
)


def table(verdicts: Sequence[Verdict]) -> str:
    rows = [HEAD, *(cells(verdict) for verdict in verdicts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    lines.insert(1, f"| {' | '.join('-' * width for width in widths)} |")
    return "\n".join(lines)


def cells(v: Verdict) -> tuple[str, ...]:
    return (
        v.scenario,
        v.database,
        str(v.seed),
        v.word,
        str(sum(v.bites.values())),
        str(v.fed),
        str(v.finished),
        str(v.dead),
        str(v.attempts),
        str(v.raw_repeats),
        str(v.guarded_repeats),
        str(v.lost),
        str(v.stuck),
        "-" if v.recovery is None else f"{v.recovery:.1f}",
        ", ".join(f"{rate:.0f}" for rate in v.rates),
    )
