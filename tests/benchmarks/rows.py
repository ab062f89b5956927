"""Rows of the table, made by hand."""

from benchmarks.measuring import Costs, Row, Sample


def a_row(
    figures: list[float], limits: list[float] | None = None, case: str = "drain.noop", database: str = "sqlite"
) -> Row:
    samples = [Sample(figure, Costs(1000, worker_cpu=0.02, peak=50.0), {"p99": figure / 10}) for figure in figures]
    return Row(case, "what it is", database, "jobs/s", "bare SQL", ("p99",), limits or [], samples)
