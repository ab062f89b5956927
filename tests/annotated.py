"""Tasks whose annotations are checked or converted. They note what they were called with."""

import enum
from collections.abc import Mapping, Sequence
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
