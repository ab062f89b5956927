"""The bars that the figures are held against: each a ratio to what was measured in the same run, or a plain figure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .measuring import Row
from .table import number

Reading = Callable[[Row], float | None]


def ratio(row: Row) -> float | None:
    return row.ratio


def extra(name: str) -> Reading:
    return lambda row: row.extra(name)


def median(row: Row) -> float:
    return row.median


@dataclass(frozen=True)
class Bar:
    """One demand on one case. With neither `least` nor `most` the figure is shown and nobody judges it."""

    case: str
    what: str
    database: str = "postgresql"
    reading: Reading = ratio
    least: float | None = None
    most: float | None = None
    percent: bool = True

    def is_met_by(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def shown(self, value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:.1%}" if self.percent else number(value)

    @property
    def demand(self) -> str:
        if self.least is not None:
            return f">= {self.shown(self.least)}"
        return f"<= {self.shown(self.most)}" if self.most is not None else "no bar"


BARS: list[Bar] = [
    Bar("enqueue.one", "of a bare INSERT and commit", least=0.65),
    Bar("enqueue.many.100000", "of a bare INSERT of all rows", least=0.55),
    Bar("drain.noop.1x4", "of bare claim + settle", least=0.65),
    Bar("drain.noop.1x4", "of bare claim + settle", "sqlite", least=0.15),
    Bar("drain.noop.normal", "of bare claim + settle, synchronous=NORMAL", "sqlite", least=0.15),
    Bar("drain.orm.1x4", "of the same calls without a queue", least=0.85),
    Bar("drain.sleep.20_threads", "of the ideal 2,000/s", least=0.95),
    Bar("drain.sleep.200_async", "of the ideal 20,000/s", least=0.5),
    Bar("drain.million.1x4", "MiB at the end of a million jobs", reading=extra("peak_10"), most=70, percent=False),
    Bar("drain.million.1x4", "memory of the last tenth / first", reading=extra("peak_growth"), most=1.1, percent=False),
    Bar("backlog.ready", "of the rate without", least=0.9),
    Bar("backlog.scheduled", "of the rate without", least=0.9),
    Bar("backlog.finished", "of the rate without", least=0.9),
    Bar("backlog.blocked", "of the rate without", least=0.5),
    Bar("backlog.blocked", "of the rate without", "sqlite", least=0.5),
    Bar("overload.max_depth", "of max_depth", most=1.1),
    Bar("overload.max_depth", "of max_depth", "sqlite", most=1.1),
    Bar("backlog.queues", "of the rate with one queue", least=0.8),
    Bar("backlog.held", "last tenth / first tenth", reading=extra("last_to_first"), least=0.75),
    Bar("latency.idle", "ms, median", "sqlite", median, most=15, percent=False),
    Bar("idle", "% of a core", reading=median, most=0.5, percent=False),
    Bar("idle", "% of a core", "sqlite", median, most=1.0, percent=False),
    Bar("idle", "statements a minute", reading=extra("statements_a_minute"), most=90, percent=False),
]


def judged(rows: Sequence[Row], bars: Sequence[Bar] = BARS) -> tuple[list[str], bool]:
    """Return a line for each bar whose case was measured, and whether all of those are met."""
    found = {(row.case, row.database): row for row in rows}
    lines, all_met = [], True
    for bar in bars:
        row = found.get((bar.case, bar.database))
        value = bar.reading(row) if row else None
        if value is None:
            continue
        has_bar = bar.least is not None or bar.most is not None
        is_met = bar.is_met_by(value)
        all_met = all_met and is_met
        verdict = ("pass" if is_met else "FAIL") if has_bar else "    "
        lines.append(f"{verdict}  {bar.case:22} {bar.database:11} {bar.shown(value):>9}  {bar.demand:10} {bar.what}")
    return lines, all_met
