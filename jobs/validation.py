"""A task's own validator: a callable, anything with `model_validate` (pydantic's models), or a Django form class."""

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.forms import BaseForm

from .secrets import redacted_text


def problems(validator: Any, arguments: Mapping[str, Any]) -> str:
    """Return what a validator has against a payload, as one line that names the arguments; nothing when it is right.

    Raises: what a callable raises beside ValueError, TypeError and ValidationError: that is a fault of its own.
    """
    if isinstance(validator, type) and issubclass(validator, BaseForm):
        return problems_of_form(validator(data=dict(arguments)))
    try:
        if hasattr(validator, "model_validate"):
            validator.model_validate(dict(arguments))
        elif validator(**arguments) is False:
            return "its validator refuses the payload"
    except (ValueError, TypeError, ValidationError) as error:
        return told_by(error)
    return ""


def problems_of_form(form: BaseForm) -> str:
    if form.is_valid():
        return ""
    found = [(name, " ".join(str(text) for text in texts)) for name, texts in form.errors.items()]
    return "; ".join(text if name == "__all__" else f"{name}: {text}" for name, text in found)


def told_by(error: Exception) -> str:
    """Return what an error says, without the values that pydantic's text quotes."""
    if isinstance(error, ValidationError):
        if hasattr(error, "error_dict"):
            return "; ".join(f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items())
        return " ".join(error.messages)
    if callable(each := getattr(error, "errors", None)):
        return "; ".join(": ".join(filter(None, (place_of(one), one["msg"]))) for one in each())
    return redacted_text(str(error)) or type(error).__name__


def place_of(problem: Mapping[str, Any]) -> str:
    """Return where pydantic found it, as the paths in other refusals are written."""
    first, *rest = problem["loc"] or ("",)
    return f"{first}{''.join(f'[{part!r}]' for part in rest)}"
