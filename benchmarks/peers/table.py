"""The one table that `make bench-peers` prints: a row for each figure, a column for each system."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.measuring import paired
from benchmarks.table import number

from .cases import MILLISECONDS


@dataclass
class Row:
    """One figure of all systems, in as many runs as pairs were asked for; None: that run failed."""

    case: str
    title: str
    unit: str
    runs: dict[str, list[float | None]] = field(default_factory=dict)

    def add(self, system: str, figure: float | None) -> None:
        self.runs.setdefault(system, []).append(figure)

    def known(self, system: str) -> list[float]:
        return [figure for figure in self.runs.get(system, []) if figure is not None]

    def median(self, system: str) -> float | None:
        return median(known) if (known := self.known(system)) else None

    def ratio(self, ours: str, peer: str) -> float | None:
        """Return the median of our figures over the peer's, each pair measured in turn."""
        pairs = zip(self.runs.get(ours, []), self.runs.get(peer, []), strict=False)
        both = [(figure, limit) for figure, limit in pairs if figure is not None and limit is not None]
        return paired(*zip(*both, strict=True)) if both else None


def best_of(rows: Sequence[Row], title: str, systems: Sequence[str]) -> Row:
    """Return a row with each system's runs in the case in which it does best."""
    best = Row("best", title, rows[0].unit)
    for system in systems:
        here = [row for row in rows if row.known(system)]
        if here:
            best.runs[system] = max(here, key=lambda row: row.median(system) or 0).runs[system]
    return best


def cells(rows: Sequence[Row], systems: Sequence[str]) -> list[list[str]]:
    """Return lines of cells, the heads first; the first of the systems is ours."""
    heads = ["", systems[0], *(text for peer in systems[1:] for text in (peer, "ratio"))]
    return [heads, *(cells_of(row, systems) for row in rows)]


def cells_of(row: Row, systems: Sequence[str]) -> list[str]:
    line = [f"{row.title}, {row.unit}", figure(row, systems[0])]
    for peer in systems[1:]:
        ratio = row.ratio(systems[0], peer)
        line += [figure(row, peer), "-" if ratio is None else f"{number(ratio)}x"]
    return line


def figure(row: Row, system: str) -> str:
    known = row.known(system)
    if not known:
        return "FAILED" if row.runs.get(system) else "-"
    failures = len(row.runs[system]) - len(known)
    text = number(row.median(system))
    if len(known) > 1:
        text += f" ({number(min(known))}-{number(max(known))})"
    return f"{text} {failures} FAILED" if failures else text


def text(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join("  ".join(aligned(line, widths)).rstrip() for line in lines)


def aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = (
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    return [first, *others]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def legend(rows: Sequence[Row], pairs: int) -> str:
    """Say how to read the table."""
    said = [f"Median of {pairs} (lowest-highest); ratio: ours over the peer's, the median of {pairs} pairs in turn."]
    if any(row.unit == MILLISECONDS for row in rows):
        said.append("Milliseconds: less is better.")
    return " ".join(said)
