"""The body of a request to the HTTP API: read within bounds, parsed strictly, refused by the name of the field."""

import hashlib
import json
from typing import Any, NoReturn

from django.http import HttpRequest, UnreadablePostError

from . import conf
from .callers import Denied
from .catalogue import find_user
from .exceptions import Refused

FIELDS = {"template_id", "user_id", "address", "references"}
MAX_KEY = 255


def body_of(request: HttpRequest) -> dict[str, Any]:
    """Return the JSON object that was sent. Raises: Denied."""
    if request.content_type != "application/json":
        raise Denied(415, "Content-Type", "send application/json")
    try:
        found = json.loads(bounded(request), parse_constant=no_json, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise Denied(400, "body", f"this is no JSON: {reason}"[:200]) from None
    if not isinstance(found, dict):
        raise Denied(400, "body", "send a JSON object")
    return found


def bounded(request: HttpRequest) -> bytes:
    longest = conf.current().max_body
    try:
        content: bytes = request.read(longest + 1)
    except (UnreadablePostError, OSError):
        raise Denied(400, "body", "it did not arrive") from None
    if len(content) > longest:
        raise Denied(413, "body", f"it is larger than {longest} bytes")
    return content


def no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def order_of(body: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Return recipient, template and references. Raises: Refused naming the field."""
    for name in body:
        if name not in FIELDS:
            raise Refused(name[:100], f"there is no such field; there are {', '.join(sorted(FIELDS))}")
    if "template_id" not in body:
        raise Refused("template_id", "this field is required")
    references = body.get("references", {})
    if not isinstance(references, dict):
        raise Refused("references", "must be an object")
    return recipient_in(body), body["template_id"], references


def recipient_in(body: dict[str, Any]) -> Any:
    if ("user_id" in body) == ("address" in body):
        raise Refused("address", "send exactly one of user_id and address")
    if "address" in body:
        return body["address"]
    user = find_user(body["user_id"])
    if user is None:
        raise Refused("user_id", "there is no such user")
    return user


def key_of(request: HttpRequest) -> str:
    """Return the Idempotency-Key, empty when there is none. Raises: Denied."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return ""
    if not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise Denied(400, "Idempotency-Key", f"must be 1 to {MAX_KEY} printable ASCII characters")
    return key


def digest_of(body: dict[str, Any]) -> str:
    """Return what tells two bodies apart: not their spaces, nor the order of their names."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
