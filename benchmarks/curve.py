"""The curve of growth: jobs a second over how many jobs wait, as an SVG that reads in light and in dark."""

import math
from collections.abc import Sequence
from html import escape

from .measuring import Row

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 72, 44, 56, 48
COLOURS = {"postgresql": "#3b74c4", "sqlite": "#b5541f"}
NAMES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 }
.grid { stroke: #8886; stroke-width: 1 }
.line { fill: none; stroke-width: 2.5 }
.limit { fill: none; stroke-width: 1.5; stroke-dasharray: 5 5 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } }
"""

Point = tuple[float, float]


def depth_of(row: Row) -> int:
    return int(row.case.rpartition(".")[2])


def curve(rows: Sequence[Row]) -> str:
    """Draw the `growth.*` rows: a line for each database, dashed the bare SQL beside it."""
    rows = sorted((row for row in rows if row.case.startswith("growth.")), key=depth_of)
    if not rows:
        raise ValueError("there are no rows of growth to draw")
    depths = [depth_of(row) for row in rows]
    highest = rounded_up(max(max(row.median, row.limit if row.limits else 0.0) for row in rows))
    scale = Scale(min(depths), max(depths), highest)
    body = [*grid(scale, sorted(set(depths)))]
    for place, database in enumerate(dict.fromkeys(row.database for row in rows)):
        body.extend(lines_of(scale, database, [row for row in rows if row.database == database]))
        body.extend(legend(place, database))
    title = "<title>Jobs a second over the number of jobs that wait</title>"
    return "\n".join([opening(), title, f"<style>{STYLE}</style>", *body, "</svg>", ""])


def opening() -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'


class Scale:
    """Depths on a logarithmic axis, rates on one that begins at 0."""

    def __init__(self, lowest: float, deepest: float, highest: float) -> None:
        self.lowest, self.highest = lowest, highest
        self.decades = max(math.log10(deepest / lowest), 1e-9)

    def x(self, depth: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log10(depth / self.lowest) / self.decades

    def y(self, rate: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / self.highest


def rounded_up(value: float) -> float:
    """Return the next round number, so that quarters of it are round too."""
    step = 10 ** math.floor(math.log10(value))
    return next(step * factor for factor in (1, 2, 4, 6, 8, 10) if value <= step * factor)


def grid(scale: Scale, depths: Sequence[int]) -> list[str]:
    parts = []
    for rate in (scale.highest * quarter / 4 for quarter in range(5)):
        y = scale.y(rate)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{rate:,.0f}</text>')
    for depth in depths:
        parts.append(f'<text x="{scale.x(depth):.1f}" y="{HEIGHT - 26}" text-anchor="middle">{depth:,}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">jobs waiting</text>')
    parts.append('<text x="8" y="20">jobs/s</text>')
    return parts


def lines_of(scale: Scale, database: str, rows: Sequence[Row]) -> list[str]:
    colour = COLOURS.get(database, "#666")
    parts = [line("line", colour, [(scale.x(depth_of(row)), scale.y(row.median)) for row in rows])]
    if all(row.limits for row in rows):
        parts.append(line("limit", colour, [(scale.x(depth_of(row)), scale.y(row.limit)) for row in rows]))
    for row in rows:
        x, y = scale.x(depth_of(row)), scale.y(row.median)
        label = escape(f"{NAMES.get(database, database)}, {depth_of(row):,} waiting: {row.median:,.0f} jobs/s")
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{label}</title></circle>')
    return parts


def line(kind: str, colour: str, points: Sequence[Point]) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" stroke="{colour}" points="{places}"/>'


def legend(place: int, database: str) -> list[str]:
    x, colour = LEFT + 40 + place * 300, COLOURS.get(database, "#666")
    name = escape(NAMES.get(database, database))
    return [
        line("line", colour, [(x, 16), (x + 28, 16)]),
        f'<text x="{x + 34}" y="20">{name}</text>',
        line("limit", colour, [(x + 120, 16), (x + 148, 16)]),
        f'<text x="{x + 154}" y="20">bare SQL</text>',
    ]
