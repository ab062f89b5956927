"""Tasks whose annotations are checked or converted. They note what they were called with."""

import enum
import functools
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional
from uuid import UUID

from jobs import task

if TYPE_CHECKING:
    from tests.conftest import Unheard  # type: ignore[attr-defined]

CALLS: list[Any] = []
UserId = NewType("UserId", int)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@task
def checked(
    *,
    count: int = 0,
    ratio: float = 0.0,
    name: str = "",
    flag: bool = False,
    nothing: None = None,
    maybe: Optional[int] = None,  # noqa: UP045
    either: int | str = 0,
    users: list[UserId] = [],  # noqa: B006
    pairs: tuple[int, str] = (0, ""),
    many: tuple[int, ...] = (),
    names: Sequence[str] = (),
    scores: dict[str, float] = {},  # noqa: B006
    nested: Mapping[str, list[int]] = {},
    size: Literal["small", "large"] = "small",
    noted: Annotated[int, "a note"] = 0,
    implicit: int = None,  # type: ignore[assignment]  # noqa: RUF013
    anything: Any = None,
    order: UUID | None = None,
    unheard: "Unheard" = None,
    later: "int" = 0,
) -> None:
    CALLS.append(None)


@task(annotations="off")
def unchecked(*, count: int) -> None:
    CALLS.append(count)


@task
def spread(first: int, *rest: int, **others: str) -> None:
    CALLS.append((first, rest, others))


@task(annotations="convert")
def converted(
    order: UUID,
    *,
    at: datetime | None = None,
    day: date | None = None,
    clock: time | None = None,
    amount: Decimal = Decimal(0),
    color: Color = Color.RED,
    level: Level = Level.LOW,
    orders: list[UUID] = [],  # noqa: B006
    prices: dict[str, Decimal | None] = {},  # noqa: B006
    either: UUID | int = 0,
    plain: str = "",
) -> None:
    CALLS.append(locals())


@task(annotations="convert", takes_context=True, idempotency_key="order:{order}:{color}")
async def keyed(context: Any, order: UUID, color: Color) -> None:
    CALLS.append((context.attempt, order, color))


def is_known(order: UUID, color: Color) -> bool:
    return isinstance(order, UUID) and color is Color.RED


@task(annotations="convert", validate=is_known)
def validated(order: UUID, color: Color) -> None:
    CALLS.append((order, color))


@task
def loose(pair: tuple = (), names: Sequence[str] = (), items: Iterable[int] = ()) -> None:  # type: ignore[type-arg]
    CALLS.append((pair, names, items))


@task(annotations="convert")
def early(kind: "Late") -> None:
    CALLS.append(kind)


class Late(enum.Enum):
    ONE = "one"


def of_another_module(function: Any) -> Any:
    """Wrap a function as `functools.wraps` does, with the globals of a module where nothing has a name."""
    space: dict[str, Any] = {"functools": functools, "function": function}
    exec("@functools.wraps(function)\ndef wrapper(*args, **kwargs):\n    return function(*args, **kwargs)\n", space)
    return space["wrapper"]


@task(annotations="convert")
@of_another_module
def wrapped(order: "UUID") -> None:
    CALLS.append(order)


@task(annotations="convert", dedupe_key="{order}:{color}:{at}")
def defaulted(order: UUID, color: Color = Color.RED, at: datetime = datetime(2026, 3, 1)) -> None:
    CALLS.append((order, color, at))


@task
def ambiguous(value: UUID | str) -> None:
    CALLS.append(value)
