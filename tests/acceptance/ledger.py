"""A file that tasks in other processes write their effects into, and gates that tests open for them."""

import os
from pathlib import Path


class Ledger:
    """Lines in the order in which they happened, whatever became of the processes that wrote them.

    Both sides use it: a task gets the path as an argument.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def note(self, line: str) -> None:
        """Add a line. One write to a file opened for appending: lines of several processes never mix."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def count(self, line: str) -> int:
        return self.lines().count(line)

    def has(self, *lines: str) -> bool:
        return set(lines) <= set(self.lines())

    def open(self, gate: str = "gate") -> None:
        """Let tasks go on that wait at this gate, now and later."""
        self.gate_path(gate).touch()

    def is_open(self, gate: str = "gate") -> bool:
        return self.gate_path(gate).exists()

    def gate_path(self, gate: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{gate}")
