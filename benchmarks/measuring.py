"""Figures of several runs: their median and range, ratios taken pair by pair, and what a job cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median


def paired(figures: Sequence[float], limits: Sequence[float]) -> float:
    """Return the median of the ratios of runs that were measured in turn: A B A B, a pair at a time."""
    return median(figure / limit for figure, limit in zip(figures, limits, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least so many percent of all do not exceed."""
    ordered = sorted(values)
    place = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(0, int(place) - 1)]


@dataclass(frozen=True)
class Costs:
    """What `jobs` jobs cost. None: cannot be had here. Units: seconds, bytes, MiB."""

    jobs: int
    worker_cpu: float | None = None
    server_cpu: float | None = None
    statements: float | None = None  # a job, from a run of its own
    commits: float | None = None  # a job
    wal: float | None = None
    peak: float | None = None


def typical(values: Iterable[float | None]) -> float | None:
    """Return the median of what could be measured; None when that is nothing."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


@dataclass
class Sample:
    """One run of one side of a pair. `extra`: further figures, by name."""

    figure: float
    costs: Costs
    extra: dict[str, float] = field(default_factory=dict)


@dataclass
class Row:
    """A case on a database: its runs, and those of the limit that were measured in turn with them.

    `notes`: which of the samples' extra figures the table shows.
    """

    case: str
    title: str
    database: str
    unit: str
    limit_name: str = ""
    notes: tuple[str, ...] = ()
    limits: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    statements: float | None = None

    @property
    def figures(self) -> list[float]:
        return [sample.figure for sample in self.samples]

    @property
    def median(self) -> float:
        return median(self.figures)

    @property
    def limit(self) -> float:
        return median(self.limits)

    @property
    def ratio(self) -> float | None:
        return paired(self.figures, self.limits) if self.limits else None

    @property
    def pair_ratios(self) -> list[float]:
        return [figure / limit for figure, limit in zip(self.figures, self.limits, strict=False)]

    def extra(self, name: str) -> float | None:
        return typical(sample.extra.get(name) for sample in self.samples)

    def per_thousand(self, name: str) -> float | None:
        """Return the typical cost of 1,000 jobs."""
        return typical(scaled(getattr(sample.costs, name), 1000 / sample.costs.jobs) for sample in self.samples)

    def typical(self, name: str) -> float | None:
        return typical(getattr(sample.costs, name) for sample in self.samples)


def scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
