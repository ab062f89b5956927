"""What may travel with a job: the arguments are checked before any SQL, and every refusal names the argument."""

import functools
import inspect
import json
import logging
import math
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import annotations, secrets
from .exceptions import InvalidPayload

log = logging.getLogger("jobs")

MAX_DEPTH = 64
MAX_KEY = 255
MAX_SHAPES = 100  # shapes of payloads remembered for a signature

scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
Encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encoded(task_name: str, args: Sequence[Any], kwargs: Mapping[str, Any], max_payload: int) -> tuple[str, str]:
    """Return `args` and `kwargs` as JSON text.

    Units: `max_payload` in bytes of UTF-8, both together.
    Raises: InvalidPayload naming the task and the argument.
    """
    for position, value in enumerate(args):
        check(value, task_name, f"args[{position}]")
    for name, value in kwargs.items():
        if not name.isidentifier():  # possible in **kwargs
            check_text(name, task_name, f"the name {name!r}")
        check(value, task_name, name)
    texts = encode(list(args), task_name) if args else "[]", encode(dict(kwargs), task_name)
    size = sum(len(text.encode()) for text in texts)
    if size > max_payload:
        raise InvalidPayload(
            f"{task_name}: the payload takes {size} bytes, more than max_payload={max_payload}; "
            f"the largest argument is {largest(args, kwargs, task_name)!r}. Pass a reference and let the task read it."
        )
    return texts


def decoded(text: str) -> Any:
    """Return what JSON text out of the database holds: it is valid, so most of what `json.loads` does is left out."""
    try:
        return scan(text, 0)[0]
    except StopIteration:  # white space before it
        return json.loads(text)


def refuse_secrets(
    function: Callable[..., Any],
    takes_context: bool,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    allowed: Sequence[str],
    mode: str,
) -> None:
    """Refuse a payload that holds a secret, or with "warn" report it. Raises: InvalidPayload with its path only."""
    if mode == "off" or not (secrets.may_hold_any(kwargs) or (args and may_be_secret(function, takes_context, args))):
        return
    names = fit(function, takes_context).positional
    given = [(names[place] if place < len(names) else f"args[{place}]", value) for place, value in enumerate(args)]
    for name, value in [*given, *kwargs.items()]:
        for path, what in secrets.found_in(value, name, name):
            if any(path == place or path.startswith(f"{place}[") for place in allowed):
                continue
            if mode == "warn":
                log.warning("secret in a payload", extra={"task": function.__name__, "path": path, "secret": what})
                continue
            raise InvalidPayload(
                f"{function.__name__}: {path} holds {what}. People, logs and dumps see a job's row: pass a reference "
                f"and let the task read it, or allow it with allow_secrets=({path!r},)"
            )


def may_be_secret(function: Callable[..., Any], takes_context: bool, args: Sequence[Any]) -> bool:
    names = fit(function, takes_context).positional
    return secrets.may_hold_any(list(args)) or secrets.may_hold_any(dict(zip(names, args, strict=False)))


def encoded_value(value: Any, task_name: str, max_payload: int) -> str | None:
    """Return a return value as JSON text, without the secrets in it; None for None. Raises: InvalidPayload."""
    if value is None:
        return None
    check(value, task_name, "return value")
    if secrets.may_hold_any(value):
        value = secrets.redacted(value)
    text = encode(value, task_name)
    if len(text.encode()) > max_payload:
        raise InvalidPayload(f"{task_name}: the return value takes more than max_payload={max_payload} bytes")
    return text


def bound(function: Callable[..., Any], takes_context: bool, args: Any, kwargs: Any) -> inspect.BoundArguments:
    """Bind a payload to the task's signature, defaults applied. Raises: InvalidPayload naming the argument."""
    wanted = signature(function, takes_context)
    try:
        arguments = wanted.bind(*args, **kwargs)
    except TypeError as error:
        # Python tells of what is missing first, though it may be there under another name.
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in wanted.parameters.values())
        others = [] if takes_any else [repr(name) for name in kwargs if name not in wanted.parameters]
        more = f"; there is no {others[0]}" if others and others[0] not in str(error) else ""
        raise InvalidPayload(f"{function.__name__}: {error}{more}") from None
    arguments.apply_defaults()
    return arguments


def upgraded(
    task_name: str,
    upgrades: Mapping[int, Callable[..., Any]],
    version: int,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a payload of an older version is in the newest: keyword arguments. Raises: InvalidPayload."""
    while version <= max(upgrades):
        what = f"{task_name}: the upgrade from schema version {version}"
        if version not in upgrades:
            raise InvalidPayload(f"{what} is gone; the oldest is from {min(upgrades)}")
        try:
            found = upgrades[version](*args, **kwargs)
        except Exception as error:
            raise InvalidPayload(f"{what} failed: {error!r}") from error
        if not isinstance(found, Mapping):
            raise InvalidPayload(f"{what} must return a dict of keyword arguments, not {found!r:.80}")
        args, kwargs, version = [], found, version + 1
    return dict(kwargs)


class Fit:
    """Says quickly that a payload fits a signature; where it says no, `bound` knows better and names the argument."""

    def __init__(self, found: inspect.Signature) -> None:
        parameters = list(found.parameters.values())
        plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        self.is_plain = all(parameter.kind in plain for parameter in parameters)
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self.positional = tuple(parameter.name for parameter in parameters if parameter.kind in by_place)
        self.names = frozenset(parameter.name for parameter in parameters)
        self.required = frozenset(p.name for p in parameters if p.default is inspect.Parameter.empty)
        self.known: dict[tuple[int, tuple[str, ...]], bool] = {}

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        shape = len(args), tuple(kwargs)
        if (known := self.known.get(shape)) is None:
            known = self.is_plain and self.takes(*shape)
            if len(self.known) < MAX_SHAPES:
                self.known[shape] = known
        return known

    def takes(self, count: int, names: tuple[str, ...]) -> bool:
        given = self.positional[:count]
        missing = self.required.difference(given, names)
        return len(given) == count and not missing and self.names.difference(given).issuperset(names)


@functools.cache
def fit(function: Callable[..., Any], takes_context: bool) -> Fit:
    return Fit(signature(function, takes_context))


@functools.cache
def signature(function: Callable[..., Any], takes_context: bool) -> inspect.Signature:
    found = inspect.signature(function)
    if not takes_context:
        return found
    return found.replace(parameters=list(found.parameters.values())[1:])


def key_for(option: str, template: str | Callable[..., str], task_name: str, arguments: dict[str, Any]) -> str:
    """Return the key that a format string or a callable makes of a payload.

    Raises: InvalidPayload when it cannot be made, is empty, or is longer than 255 characters.
    """
    try:
        key = template(**arguments) if callable(template) else template.format(**arguments)
    except Exception as error:
        raise InvalidPayload(f"{task_name}: {option} cannot be made of this payload: {error!r}") from error
    if not isinstance(key, str) or not key:
        raise InvalidPayload(f"{task_name}: {option} must be text that is not empty, not {key!r}")
    if len(key) > MAX_KEY:
        raise InvalidPayload(f"{task_name}: {option} is longer than {MAX_KEY} characters: {len(key)}")
    check(key, task_name, option)
    return key


def fields_of(template: str) -> set[str]:
    """Return the argument names that a key's format string uses. Raises: ValueError when it is no format string."""
    names = (name for _, name, _, _ in string.Formatter().parse(template) if name is not None)
    return {name.split(".")[0].split("[")[0] for name in names}


def check(value: Any, task_name: str, path: str, depth: int = 0) -> None:
    """Refuse what JSON, or PostgreSQL's jsonb, cannot hold. `normalize_json` of Django lets it through."""
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return
    if isinstance(value, str):
        check_text(value, task_name, path)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidPayload(f"{task_name}: {path} is {value!r}, which JSON cannot hold")
    elif isinstance(value, dict):
        check_depth(depth, task_name, path)
        for name, item in value.items():
            if not isinstance(name, str):
                raise InvalidPayload(f"{task_name}: {path} has the key {name!r}; keys must be text in JSON")
            check_text(name, task_name, f"{path}[{name!r}]")
            check(item, task_name, f"{path}[{name!r}]", depth + 1)
    elif isinstance(value, list | tuple):
        check_depth(depth, task_name, path)
        for position, item in enumerate(value):
            check(item, task_name, f"{path}[{position}]", depth + 1)
    elif not isinstance(value, int):
        raise InvalidPayload(
            f"{task_name}: {path} is a {kind.__module__}.{kind.__qualname__}, which JSON cannot hold; "
            f"pass an id, a number or text{annotations.hint_for(value)}"
        )


def check_text(value: str, task_name: str, path: str) -> None:
    if "\x00" in value:
        raise InvalidPayload(f"{task_name}: {path} contains a NUL character, which PostgreSQL cannot hold")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidPayload(f"{task_name}: {path} contains half a surrogate pair, which is no valid text") from None


def check_depth(depth: int, task_name: str, path: str) -> None:
    if depth >= MAX_DEPTH:
        raise InvalidPayload(f"{task_name}: {path[:80]} is nested deeper than {MAX_DEPTH} levels")


def encode(value: Any, task_name: str) -> str:
    try:
        return Encoder.encode(value)
    except ValueError as error:  # an integer of more digits than Python prints
        raise InvalidPayload(f"{task_name}: the payload cannot be written as JSON: {error}") from error


def largest(args: Sequence[Any], kwargs: Mapping[str, Any], task_name: str) -> str:
    sizes = {f"args[{position}]": len(encode(value, task_name)) for position, value in enumerate(args)}
    sizes |= {name: len(encode(value, task_name)) for name, value in kwargs.items()}
    return max(sizes, key=lambda name: sizes[name])
