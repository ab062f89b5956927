"""Who calls the HTTP API: a token of the settings, which has the permission itself, or a session, which may have it."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware

from . import conf


class Denied(Exception):
    """The request is answered with this code; `field` names what is wrong with it."""

    def __init__(self, code: int, field: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.message = message


@dataclass(frozen=True)
class Caller:
    name: str  # unique: Idempotency-Keys are scoped to it
    may_add: bool
    may_view: bool
    has_session: bool


class SessionCheck(CsrfViewMiddleware):
    """Django's own check, asked by the view: a request with a token needs none, and only the view tells them apart."""

    def _reject(self, request: HttpRequest, reason: str) -> Any:
        return reason


def caller_of(request: HttpRequest) -> Caller:
    """Raises: Denied."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return holder_of(token.strip())
    user: Any = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        raise Denied(401, "Authorization", "send a bearer token, or log in")
    may_add = user.has_perm("notifications.add_email")
    return Caller(f"user:{user.pk}", may_add, may_add or user.has_perm("notifications.view_email"), has_session=True)


def holder_of(token: str) -> Caller:
    """Return the caller whose token this is; how long it takes tells nothing about the tokens. Raises: Denied."""
    given = digest(token)
    found = [name for name, right in conf.current().api_tokens.items() if hmac.compare_digest(digest(right), given)]
    if not found:
        raise Denied(401, "Authorization", "this token is not known")
    return Caller(f"token:{found[0]}", may_add=True, may_view=True, has_session=False)


def refuse_forged(request: HttpRequest) -> None:
    """Raises: Denied when another site may have sent this request with the user's session."""
    check = SessionCheck(lambda request: HttpResponse())
    check.process_request(request)
    if reason := check.process_view(request, None, (), {}):  # type: ignore[arg-type]
        raise Denied(403, "X-CSRFToken", str(reason))


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
