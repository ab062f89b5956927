"""The one table that `make bench` prints."""

from collections.abc import Callable, Sequence

from .measuring import Row, scaled

Cell = Callable[[Row], str]


def number(value: float | None) -> str:
    """Write a figure with three digits that count, or all before the point."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"


def limit_of(row: Row) -> str:
    return f"{number(row.limit)} {row.limit_name}" if row.limits else "-"


def ratio_of(row: Row) -> str:
    return "-" if row.ratio is None else f"{row.ratio:.0%}"


def notes_of(row: Row) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {number(row.extra(name))}" for name in row.notes)


COLUMNS: list[tuple[str, Cell]] = [
    ("case", lambda row: row.case),
    ("database", lambda row: row.database),
    ("median", lambda row: f"{number(row.median)} {row.unit}"),
    ("range", lambda row: f"{number(min(row.figures))} - {number(max(row.figures))}"),
    ("limit in the same run", limit_of),
    ("ratio", ratio_of),
    ("CPU s/1,000", lambda row: number(row.per_thousand("worker_cpu"))),
    ("server", lambda row: number(row.per_thousand("server_cpu"))),
    ("stmts/job", lambda row: number(row.statements)),
    ("commits/job", lambda row: number(row.typical("commits"))),
    ("WAL B/job", lambda row: number(scaled(row.per_thousand("wal"), 0.001))),
    ("peak MiB", lambda row: number(row.typical("peak"))),
    ("notes", notes_of),
]
LEFT = {"case", "database", "limit in the same run", "notes"}


def table(rows: Sequence[Row]) -> str:
    lines = [[name for name, _ in COLUMNS], *([cell(row) for _, cell in COLUMNS] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(COLUMNS))]
    return "\n".join(aligned(line, widths) for line in lines)


def aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(width) if name in LEFT else cell.rjust(width)
        for cell, width, (name, _) in zip(line, widths, COLUMNS, strict=True)
    ]
    return "  ".join(cells).rstrip()
