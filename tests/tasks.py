"""Tasks for tests that run jobs inside the test's own process.

`done` is what they did outside of the database: it stays when a transaction rolls back.
"""

from typing import Any

from django.contrib.auth.models import Group
from django.db import transaction

from jobs import CancelJob, PermanentError, RetryLater, Snooze, Uncertain, task
from jobs.breakers import Breaker
from jobs.retries import fixed

done: list[Any] = []


class NoSuchCustomer(Exception):
    """An error that no retry can help."""


@task
def add(a: Any, b: Any = 0) -> Any:
    done.append((a, b))
    return a + b


@task
async def aadd(a: Any, b: Any = 0) -> Any:
    done.append((a, b))
    return a + b


@task
def anything(**values: Any) -> None:
    done.append(values)


@task(takes_context=True)
def tell(context: Any, name: str) -> dict[str, Any]:
    """Return what the context says."""
    context.progress(50, f"half of {name}")
    return {"attempt": context.attempt, "job_id": context.job_id, "asked_to_stop": context.cancel_requested}


@task(max_attempts=3, backoff=fixed(0))
def fail(message: str = "boom") -> None:
    done.append(message)
    raise ValueError(message)


@task(max_attempts=3, backoff=fixed(0), takes_context=True)
def flaky(context: Any, fails: int = 1) -> int:
    if context.attempt <= fails:
        raise ConnectionError("the other side hung up")
    return int(context.attempt)


@task(permanent_errors=(NoSuchCustomer,))
def misdirected() -> None:
    raise NoSuchCustomer("there is no customer 7")


@task
def say(what: str, seconds: float = 30) -> None:
    """Raise what the task's author can raise to steer its job."""
    raise {
        "permanent": PermanentError("the address does not exist"),
        "later": RetryLater(seconds),
        "snooze": Snooze(seconds),
        "cancel": CancelJob("no longer wanted"),
        "uncertain": Uncertain("the connection was lost after the data"),
    }[what]


@task(transactional=True)
def write(name: str, then: str = "") -> int:
    """Write a row that commits with the job's success."""
    group = Group.objects.create(name=name)
    if then == "raise":
        raise ValueError("after the write")
    if then == "hook":
        transaction.on_commit(broken_hook)
    if then == "rollback":
        transaction.set_rollback(True)
    if then == "unstorable":
        return object()  # type: ignore[return-value]
    return int(group.pk)


def broken_hook() -> None:
    done.append("hook")
    raise RuntimeError("the hook is broken")


@task(idempotency_key="charge:{order}")
def charge(order: int) -> str:
    done.append(order)
    return f"receipt {order}"


@task(idempotency_key="charge:{order}", on_uncertain="dead")
def charge_for_a_person(order: int, how: str = "") -> str:
    done.append(order)
    if how == "uncertain":
        raise Uncertain("the connection was lost after the data")
    if how == "fails":
        raise ValueError("declined")
    return f"receipt {order}"


@task(idempotency_key="write:{name}", transactional=True)
def write_once(name: str, then: str = "") -> int:
    group = Group.objects.create(name=name)
    if then == "raise":
        raise ValueError("after the write")
    return int(group.pk)


@task
def sign_in(password):
    return {"token": password}


@task(max_attempts=1)
def misconnected() -> None:
    raise ConnectionError("no way to postgres://app:hunter2@db/app")


@task
def unlock(password: str, /, hint: str = "", *, password_hint: str = "") -> None:
    pass


def one_address_becomes_several(address):
    return {"to": [address]} if "@" in address else None


def remind_in_a_week(to, **others):
    return {"to": to, "days": 7, **others}


@task(schema_version=3, upgrades={1: one_address_becomes_several, 2: remind_in_a_week})
def remind(to, days):
    return to, days


@task(schema_version=2, queue_name="email", priority=7, max_attempts=9, max_crashes=2, timeout=12.5)
def detailed(*, delivery_id: Any, template_id: str = "welcome") -> Any:
    return f"{template_id} {delivery_id}"


@task
def unstorable() -> Any:
    done.append("ran")
    return {1, 2}


not_a_task = 42


@task(dedupe_key="once:{user}")
def once_a_user(user: int) -> int:
    return user


@task(expires_after=3600)
def say_in_time(what: str) -> None:
    done.append(what)


@task(expires_after=3600, on_expired="drop")
def say_or_drop(what: str) -> None:
    done.append(what)


@task
def take_event(n: int) -> int:
    return n


@task
def take_whole_event(event: dict[str, Any]) -> None:
    pass


@task(dedupe_key="one", on_duplicate="raise")
def one_at_most() -> None:
    pass


@task(schedule="0 3 * * *")
def nightly() -> None:
    pass


@task(group_key="{tenant}")
def for_a_tenant(tenant: str) -> str:
    return tenant


@task(concurrency_key="{n}", max_concurrent=2)
def two_at_a_time(n: int) -> int:
    return n


class LineDown(Exception):
    """What no job is to blame for."""


# What the other side does: an exception to raise, by the job's name; without one the job does well.
other_side: dict[str, Exception] = {}


@task(
    queue_name="email",
    max_attempts=3,
    backoff=fixed(0),
    breaker=Breaker(errors=(LineDown,), after=2, ratio=0.5, window=4),
)
def call_out(name: Any = "all") -> None:
    done.append(name)
    if error := other_side.get(name):
        raise error


@task(queue_name="email")
def stay_here() -> None:
    done.append("here")
