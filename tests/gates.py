"""A gate whose deliveries are only noted."""

from jobs.exceptions import Interruption
from jobs.runs import Gate


class RecordingGate(Gate):
    def __init__(self) -> None:
        super().__init__()
        self.delivered: list[type[Interruption]] = []
        self.retracted = 0

    def deliver(self, kind: type[Interruption]) -> None:
        self.delivered.append(kind)

    def retract(self) -> None:
        self.retracted += 1
