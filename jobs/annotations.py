"""What a task's annotations say of its arguments: checked at enqueue, or made JSON there and read back before the run.

Only what an annotation says in words of JSON is checked; with `"convert"` also UUID, datetime, date, time, Decimal and
Enum travel, each as the text or number that its own type prints and reads.
"""

import collections.abc
import contextlib
import functools
import inspect
import logging
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured

from .exceptions import InvalidPayload

log = logging.getLogger("jobs")

JSON_TYPES: dict[Any, tuple[type, ...]] = {
    str: (str,),
    bool: (bool,),
    int: (int,),
    float: (float, int),
    types.NoneType: (types.NoneType,),
}
LISTS = {list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection}
LISTS |= {collections.abc.MutableSequence}
DICTS = {dict, collections.abc.Mapping, collections.abc.MutableMapping}
UNIONS = {typing.Union, types.UnionType}


class Misfit(Exception):
    """A value that its annotation does not allow: what is wrong, never the value, and where in the argument it is."""

    def __init__(self, what: str, path: str = "") -> None:
        super().__init__(what)
        self.what, self.path = what, path

    def under(self, step: str) -> "Misfit":
        return Misfit(self.what, step + self.path)


@dataclass(frozen=True, slots=True)
class Form:
    """One annotation. `dump` returns what goes into the payload and raises Misfit; `load` what the task gets of it,
    None when that is the same. `json`: the names of the JSON types that `dump` returns.
    """

    name: str
    json: frozenset[str]
    dump: Callable[[Any], Any]
    load: Callable[[Any], Any] | None = None


def misfit(name: str, value: Any) -> Misfit:
    return Misfit(f"takes {name}, not {type(value).__name__}")


def plain(kind: Any) -> Form:
    allowed = JSON_TYPES[kind]
    name = "None" if kind is types.NoneType else kind.__name__
    exact = allowed[0]

    def dump(value: Any) -> Any:
        if type(value) is exact or isinstance(value, allowed):
            return value
        raise misfit(name, value)

    return Form(name, frozenset(json_type(one()) for one in allowed), dump)


def json_type(value: Any) -> str:
    """Return the name of the JSON type of a value of the payload."""
    if isinstance(value, bool):
        return "bool"
    if value is None:
        return "None"
    if isinstance(value, tuple):
        return "list"
    return next((kind.__name__ for kind in (str, int, float, dict, list) if isinstance(value, kind)), "")


def read_decimal(value: Any) -> Decimal:
    try:
        return Decimal(value)
    except InvalidOperation:
        raise ValueError("no decimal number") from None


# Type, what it is printed by, what reads it, and what else than the type itself is taken at enqueue.
CONVERTED: list[tuple[type, Callable[[Any], str], Callable[[Any], Any], tuple[type, ...]]] = [
    (UUID, str, UUID, (str,)),
    (datetime, datetime.isoformat, datetime.fromisoformat, (str,)),
    (date, date.isoformat, date.fromisoformat, (str,)),
    (time, time.isoformat, time.fromisoformat, (str,)),
    (Decimal, str, read_decimal, (str, int)),
]


def converted(kind: type, write: Callable[[Any], str], read: Callable[[Any], Any], also: tuple[type, ...]) -> Form:
    def load(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, also) or isinstance(value, bool):
            raise misfit(kind.__name__, value)
        try:
            return read(value)
        except ValueError:
            raise Misfit(f"takes {kind.__name__}, and this {type(value).__name__} is none") from None

    def dump(value: Any) -> Any:
        if kind is date and isinstance(value, datetime):
            raise misfit("date", value)  # its time would be lost
        return write(load(value))

    return Form(kind.__name__, frozenset({"str"}), dump, load)


def enumeration(kind: type[Enum]) -> Form:
    values = [member.value for member in kind]
    if odd := next((value for value in values if not isinstance(value, str | int | float)), None):
        raise TypeError(f"{kind.__name__} has the value {odd!r}, which is no text and no number")

    def load(value: Any) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise Misfit(f"takes {kind.__name__}, one of {', '.join(map(repr, values))}") from None

    def dump(value: Any) -> Any:
        return load(value).value

    return Form(kind.__name__, frozenset(map(json_type, values)), dump, load)


def choice(values: tuple[Any, ...]) -> Form:
    name = f"one of {', '.join(map(repr, values))}"

    def dump(value: Any) -> Any:
        if any(value == one and isinstance(value, type(one)) for one in values):
            return value
        raise Misfit(f"takes {name}")

    return Form(name, frozenset(map(json_type, values)), dump)


def listed(items: Sequence[Form | None], name: str, *, repeated: bool) -> Form:
    """Return the form of a list: of any length with `repeated`, else of one item for each form."""

    def each(value: Any, act: Callable[[Form, Any], Any]) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise misfit(name, value)
        if not repeated and len(value) != len(items):
            raise Misfit(f"takes {len(items)} items, not {len(value)}")
        found = []
        for place, item in enumerate(value):
            form = items[0 if repeated else place]
            try:
                found.append(item if form is None else act(form, item))
            except Misfit as error:
                raise error.under(f"[{place}]") from None
        return found

    load = partial_load(each) if any(form and form.load for form in items) else None
    return Form(name, frozenset({"list"}), functools.partial(each, act=dumped_by), load)


def loosened(form: Form) -> Form:
    """Return the form of an abstract type: text is a sequence of text too, and a dict can be iterated."""

    def dump(value: Any) -> Any:
        return value if isinstance(value, str | dict) else form.dump(value)

    def load(value: Any) -> Any:
        return value if isinstance(value, str | dict) else loaded_by(form, value)

    return Form(form.name, form.json | {"str", "dict"}, dump, load if form.load else None)


def mapped(item: Form | None, name: str) -> Form:
    def each(value: Any, act: Callable[[Form, Any], Any]) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise misfit(name, value)
        if item is None:
            return value
        found = {}
        for key, one in value.items():
            try:
                found[key] = act(item, one)
            except Misfit as error:
                raise error.under(f"[{key!r}]") from None
        return found

    load = partial_load(each) if item and item.load else None
    return Form(name, frozenset({"dict"}), functools.partial(each, act=dumped_by), load)


def partial_load(each: Callable[..., Any]) -> Callable[[Any], Any]:
    return functools.partial(each, act=loaded_by)


def dumped_by(form: Form, value: Any) -> Any:
    return form.dump(value)


def loaded_by(form: Form, value: Any) -> Any:
    return form.load(value) if form.load else value


def union(forms: Sequence[Form]) -> Form:
    """Return the form of one of several. What is read back must be told apart by its JSON type alone."""
    name = " or ".join(form.name for form in forms)
    json = frozenset[str]().union(*(form.json for form in forms))
    if any(form.load for form in forms) and sum(len(form.json) for form in forms) != len(json):
        raise TypeError(f"cannot be told apart in JSON: {name}")
    others = [form for form in forms if form.json != {"None"}]

    def dump(value: Any) -> Any:
        if value is None and "None" in json:
            return None
        if len(others) == 1:
            return others[0].dump(value)  # which says where in it the fault is
        for form in forms:
            try:
                return form.dump(value)
            except Misfit:
                continue
        raise misfit(name, value)

    def load(value: Any) -> Any:
        kind = json_type(value)
        if form := next((form for form in forms if kind in form.json), None):
            return loaded_by(form, value)
        dump(value)  # it has been read already, or is none of them
        return value

    return Form(name, json, dump, load if any(form.load for form in forms) else None)


def form_of(annotation: Any, converts: bool) -> Form | None:
    """Return the form of an annotation; None when nothing can be said of its values.

    Raises: TypeError when values cannot be converted there and back.
    """
    if annotation is None:
        annotation = types.NoneType
    if annotation in JSON_TYPES:
        return plain(annotation)
    if isinstance(annotation, typing.NewType):
        return form_of(annotation.__supertype__, converts)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return form_of(arguments[0], converts)
    if origin is typing.Literal:
        return choice(arguments)
    if origin in UNIONS:
        return union_of([form_of(one, converts) for one in arguments])
    if annotation in LISTS or origin in LISTS:
        item = form_of(arguments[0], converts) if arguments else None
        form = listed([item], f"list[{item.name}]" if item else "list", repeated=True)
        return form if list in (annotation, origin) else loosened(form)
    if annotation is tuple or (origin is tuple and not arguments):
        return listed([None], "tuple", repeated=True)
    if origin is tuple and arguments[-1:] == (...,):
        return listed([form_of(arguments[0], converts)], "tuple", repeated=True)
    if origin is tuple:
        return listed([form_of(one, converts) for one in arguments], "tuple", repeated=False)
    if annotation in DICTS or origin in DICTS:
        item = form_of(arguments[1], converts) if len(arguments) == 2 else None
        return mapped(item, f"dict[str, {item.name}]" if item else "dict")
    if converts and isinstance(annotation, type):
        return converted_form(annotation)
    return None


def union_of(forms: list[Form | None]) -> Form | None:
    known = [form for form in forms if form is not None]
    if len(known) == len(forms):
        return union(known)
    if any(form.load for form in known):
        raise TypeError("holds a type beside others of which nothing is known")
    return None


def converted_form(annotation: type) -> Form | None:
    if issubclass(annotation, Enum):
        return enumeration(annotation)
    return next((converted(*row) for row in CONVERTED if row[0] is annotation), None)


def hint_for(value: Any) -> str:
    """Return what to add to the refusal of a value that could travel."""
    if not isinstance(value, Enum | UUID | date | time | Decimal):
        return ""
    return f', or annotate the argument as {type(value).__name__} and use @task(annotations="convert")'


class Forms:
    """The forms of a function's parameters."""

    def __init__(self, function: Callable[..., Any], takes_context: bool, converts: bool) -> None:
        self.named: dict[str, Form] = {}
        self.positional: list[Form | None] = []
        self.rest: Form | None = None  # of *args
        self.others: Form | None = None  # of **kwargs
        known: set[str] = set()
        for parameter in list(inspect.signature(function).parameters.values())[takes_context:]:
            form = self.form_of_parameter(function, parameter, converts)
            if parameter.kind is parameter.VAR_POSITIONAL:
                self.rest = form
            elif parameter.kind is parameter.VAR_KEYWORD:
                self.others = form
            else:
                known.add(parameter.name)
                if parameter.kind is not parameter.KEYWORD_ONLY:
                    self.positional.append(form)
                if form is not None and parameter.kind is not parameter.POSITIONAL_ONLY:
                    self.named[parameter.name] = form
        self.known = frozenset(known)
        self.says_nothing = not (self.named or any(self.positional) or self.rest or self.others)
        given = [*self.named.values(), *self.positional, self.rest, self.others]
        self.loads = any(form.load for form in given if form is not None)

    def form_of_parameter(self, function: Any, parameter: inspect.Parameter, converts: bool) -> Form | None:
        annotation = resolved(function, parameter.name)
        if annotation is inspect.Parameter.empty:
            return None
        try:
            form = form_of(annotation, converts)
        except TypeError as error:
            raise TypeError(f"the annotation of {parameter.name} {error}") from None
        if form is not None and parameter.default is None and "None" not in form.json:
            return union([form, plain(types.NoneType)])
        return form

    def applied(
        self, act: Callable[[Form, Any], Any], task_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return a payload after `dumped_by` or `loaded_by`. Raises: InvalidPayload naming the argument."""
        found, path = [], ""
        named = dict(kwargs)
        try:
            for place, value in enumerate(args):
                path = f"args[{place}]"
                form = self.positional[place] if place < len(self.positional) else self.rest
                found.append(value if form is None else act(form, value))
            for name, value in named.items():
                path = name
                form = self.named.get(name)
                if form is None and self.others is not None and name not in self.known:
                    form = self.others
                if form is not None:
                    named[name] = act(form, value)
        except Misfit as error:
            raise InvalidPayload(f"{task_name}: {path}{error.path} {error.what}") from None
        return found, named


@functools.cache
def forms(function: Callable[..., Any], takes_context: bool, converts: bool) -> Forms:
    """Raises: TypeError for annotations that cannot be converted there and back."""
    return Forms(function, takes_context, converts)


def resolved(function: Callable[..., Any], name: str) -> Any:
    """Return a parameter's annotation; `empty` when it has none, or when its name cannot be resolved at run time."""
    original = inspect.unwrap(function)
    annotations = original.__annotations__
    if name not in annotations:
        return inspect.Parameter.empty
    holder = types.SimpleNamespace(__annotations__={name: annotations[name]})
    try:
        # Of the function itself: what wraps it may stand in another module.
        found = typing.get_type_hints(holder, globalns=getattr(original, "__globals__", {}))[name]
        hash(found)
        return found
    except Exception as error:  # an import under TYPE_CHECKING, or anything else that a string may say
        log.debug("annotation not resolved", extra={"function": original.__qualname__, "error": repr(error)})
        return inspect.Parameter.empty


def dumped(task: Any, mode: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a payload as JSON can hold it.

    Raises: InvalidPayload naming the argument that its annotation refuses; ImproperlyConfigured where annotations
    cannot be converted there and back.
    """
    if mode == "off":
        return args, kwargs
    of_task = forms_of(task, mode)
    return (args, kwargs) if of_task.says_nothing else of_task.applied(dumped_by, task.name, args, kwargs)


def loaded(task: Any, mode: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a payload as the task is called with it. Raises: as `dumped`."""
    if mode != "convert":
        return args, kwargs
    of_task = forms_of(task, mode)
    return of_task.applied(loaded_by, task.name, args, kwargs) if of_task.loads else (args, kwargs)


def dumped_defaults(
    task: Any, arguments: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return as JSON holds them the arguments of a call that were not passed: the defaults of the function."""
    of_task = forms_of(task, "convert")
    passed = {*kwargs, *list(arguments)[: len(args)]}
    found = {}
    for name, value in arguments.items():
        if name not in passed and (form := of_task.named.get(name)):
            with contextlib.suppress(Misfit):
                found[name] = form.dump(value)
    return found


def forms_of(task: Any, mode: str) -> Forms:
    try:
        return forms(task.func, task.takes_context, mode == "convert")
    except TypeError as error:
        raise ImproperlyConfigured(f"task {task.module_path}: annotations {mode!r}: {error}") from None
