"""What a case is, and what it is given: databases of one vendor, how often to run, and how much of the full size."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .databases import Databases
from .measuring import Row
from .seeding import Recipe, Seeded, seeded

BOTH = ("postgresql", "sqlite")


@dataclass(frozen=True)
class Bench:
    databases: Databases
    base: str  # the database with tables and prototypes that all others are copies of
    runs: int
    scale: float
    say: Callable[[str], None]

    def count(self, full: int, least: int = 100) -> int:
        """Return how many jobs this run takes where the full size takes `full`."""
        return max(least, round(full * self.scale))

    def tell(self, row: Row) -> None:
        """Say how the newest pair went."""
        beside = f" beside {row.limits[-1]:,.4g} {row.limit_name}" if row.limits else ""
        self.say(f"{row.figures[-1]:,.4g} {row.unit}{beside}")

    @contextmanager
    def prepared(self, recipe: Recipe) -> Iterator[Seeded]:
        found = seeded(self.databases, self.base, recipe)
        try:
            yield found
        finally:
            self.databases.drop(found.template)


@dataclass(frozen=True)
class Case:
    """A line of the table. `run` gets the case too, for its name and title."""

    name: str
    title: str
    run: Callable[[Bench, "Case"], Row]
    vendors: tuple[str, ...] = BOTH

    def row(self, bench: Bench, unit: str, limit_name: str = "", notes: tuple[str, ...] = ()) -> Row:
        return Row(self.name, self.title, bench.databases.vendor, unit, limit_name, notes)
