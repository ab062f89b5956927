"""Receives signed webhooks: a request that is what it says becomes one job, and is answered before the work is done."""

import hashlib
import hmac
import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured, RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from . import payload
from .exceptions import DuplicateJob, InvalidPayload, QueueFull
from .models import IdempotencyRecord
from .states import RecordState
from .storage import storage

log = logging.getLogger("jobs")

MOST_SIGNATURES = 10  # in one request: each is compared with one of each secret
LONGEST_HEADER = 2000
LONGEST_ID = 150
LONGEST_SOURCE = 50
SHORTEST_SECRET = 16
TIME = re.compile(r"[0-9]{1,12}", re.ASCII)


class Refused(Exception):
    """The request is not taken: an HTTP status and what to tell the sender."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def signed(secret: str, body: bytes, timestamp: int | None = None) -> str:
    """Return the header for a body: `t=<unix time>,v1=<hex of HMAC-SHA256 over time, a dot and the body>`."""
    moment = int(time.time()) if timestamp is None else timestamp
    return f"t={moment},v1={signature(secret, str(moment), body)}"


def signature(secret: str, timestamp: str, body: bytes) -> str:
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class Answers:
    """Counts what this process has answered to webhooks, by source and status. Threads: shared."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counted: Counter[tuple[str, int]] = Counter()

    def count(self, source: str, status: int) -> None:
        with self.lock:
            self.counted[source, status] += 1

    def counts(self) -> dict[tuple[str, int], int]:
        with self.lock:
            return dict(self.counted)


answers = Answers()


def check_configuration(view: "WebhookView") -> None:
    """Raises: ImproperlyConfigured naming the view and what it lacks."""
    name = type(view).__name__
    if not isinstance(view.source, str) or not 0 < len(view.source) <= LONGEST_SOURCE:
        raise ImproperlyConfigured(f"{name} needs a source: text of 1 to {LONGEST_SOURCE} characters")
    if not hasattr(view.task, "module_path"):
        raise ImproperlyConfigured(f"{name} needs a task, made by @task, not {view.task!r}")
    for number in ("tolerance", "max_body"):
        value = getattr(view, number)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ImproperlyConfigured(f"{name} takes as {number} a number above 0, not {value!r}")
    check_secrets(name, view.secrets)


def check_secrets(name: str, secrets: Any) -> None:
    if (
        not isinstance(secrets, Sequence)
        or isinstance(secrets, str | bytes)
        or not all(isinstance(secret, str) for secret in secrets)
    ):
        raise ImproperlyConfigured(f"{name} takes as secrets a list of text")
    if any(len(secret) < SHORTEST_SECRET for secret in secrets):
        raise ImproperlyConfigured(f"{name} takes secrets of at least {SHORTEST_SECRET} characters")


class WebhookView(View):
    """Subclass it, name the `source`, the `task` and the `secrets`, and put it into the URLs.

    202: the event has become a job, or had before; 204: nobody wants it. What is refused leaves no row: 400 where it is
    malformed or too old, 401 where no secret has signed it, 413 where it is too large; 503 with `Retry-After` where the
    queue is full. The event's id is the job's dedupe key and its idempotency key: a sender that repeats itself causes
    the effect once.
    """

    http_method_names = ["post"]

    source = ""  # who sends: part of the keys, so that ids of two senders never meet
    task: Any = None  # is called with what `arguments` returns
    secrets: Sequence[str] = ()  # several while one takes the place of another
    header = "Webhook-Signature"
    tolerance = 300  # seconds that a request may be old, or ahead of this clock
    max_body = 256 * 1024  # bytes

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """See `View.as_view`. Raises: ImproperlyConfigured, when the URLs are loaded, for what can never work."""
        view = super().as_view(**initkwargs)
        check_configuration(cls(**initkwargs))
        # Here and not on `dispatch`, which a subclass may have its own of.
        return csrf_exempt(view)

    # For subclasses

    def get_secrets(self) -> Sequence[str]:
        """Return the secrets that may have signed."""
        return self.secrets

    def signatures(self, request: HttpRequest) -> tuple[str, list[str]]:
        """Return the time and the signatures that the sender gives. Raises: Refused."""
        given = request.headers.get(self.header, "")
        if not given or len(given) > LONGEST_HEADER:
            raise Refused(400, f"the header {self.header} is missing" if not given else f"{self.header} is too long")
        parts = [part.strip().partition("=") for part in given.split(",")]
        times = [value for name, _, value in parts if name == "t"]
        found = [value for name, _, value in parts if name == "v1"]
        if len(times) != 1 or not found:
            raise Refused(400, f"{self.header} must be t=<unix time>,v1=<signature>")
        return times[0], found

    def event_id(self, event: Mapping[str, Any]) -> Any:
        """Return what tells this event from all others of the source."""
        return event.get("id")

    def arguments(self, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the task's keyword arguments: references, no secrets. None: nobody wants this event."""
        return {"event": event}

    # What it does with them

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            event = self.event_of(request)
            response = self.take(event)
        except Refused as refused:
            log.warning("webhook refused", extra={"source": self.source, "why": refused.message})
            response = JsonResponse({"error": refused.message}, status=refused.status)
        except QueueFull as full:
            response = JsonResponse({"error": "too much waits; try again later"}, status=503)
            response["Retry-After"] = str(max(1, round(full.retry_after)))
        except Exception:
            answers.count(self.source, 500)
            raise
        answers.count(self.source, response.status_code)
        return response

    def event_of(self, request: HttpRequest) -> Mapping[str, Any]:
        """Return what a genuine request says. Raises: Refused."""
        body = self.body_of(request)
        self.verify(request, body)
        try:
            event = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused(400, "the body is no JSON") from None
        if not isinstance(event, dict):
            raise Refused(400, "the body must be a JSON object")
        return event

    def body_of(self, request: HttpRequest) -> bytes:
        too_large = Refused(413, f"the body is larger than {self.max_body} bytes")
        length = request.META.get("CONTENT_LENGTH") or "0"
        if length.isdecimal() and int(length) > self.max_body:
            raise too_large
        try:
            body = request.body
        except RequestDataTooBig:
            raise too_large from None
        except UnreadablePostError:
            raise Refused(400, "the body ended early") from None
        if len(body) > self.max_body:
            raise too_large
        return body

    def verify(self, request: HttpRequest, body: bytes) -> None:
        """Raises: Refused, unless one of the secrets has signed this body, and lately."""
        secrets = self.get_secrets()
        if not secrets:
            raise ImproperlyConfigured(f"{type(self).__name__} has no secrets")
        check_secrets(type(self).__name__, secrets)
        timestamp, given = self.signatures(request)
        wanted = [signature(secret, timestamp, body).encode() for secret in secrets]
        # Each is compared with each, whichever fits: the time tells nothing.
        fits = [hmac.compare_digest(mine, theirs.encode()) for mine in wanted for theirs in given[:MOST_SIGNATURES]]
        if not any(fits):
            raise Refused(401, "no signature fits")
        if not TIME.fullmatch(timestamp) or abs(time.time() - int(timestamp)) > self.tolerance:
            raise Refused(400, "the request is too old, or from the future")

    def take(self, event: Mapping[str, Any]) -> HttpResponse:
        """Enqueue the event's job, unless it has one, or had one that has done its work."""
        found = self.event_id(event)
        text = str(found) if isinstance(found, str | int) and not isinstance(found, bool) else ""
        if not 0 < len(text) <= LONGEST_ID or not text.isprintable():
            raise Refused(400, f"the event has no id of 1 to {LONGEST_ID} printable characters")
        arguments = self.arguments(event)
        if arguments is None:
            return HttpResponse(status=204)
        self.check_arguments(arguments)
        key = f"webhook:{self.source}:{text}"
        if self.is_done(key):
            return JsonResponse({"duplicate": True}, status=202)
        # A key of a task is a format string, and what comes from outside is none.
        literal = key.replace("{", "{{").replace("}", "}}")
        try:
            result = self.task.using(dedupe_key=literal, idempotency_key=literal).enqueue(**arguments)
        except DuplicateJob as held:
            self.check_holder(held)
            return JsonResponse({"duplicate": True}, status=202)
        except InvalidPayload as error:
            log.error("webhook not taken", extra={"source": self.source, "event": text, "why": str(error)})
            raise Refused(400, "the event cannot be taken") from error  # what the task says of it is not for the sender
        return JsonResponse({"duplicate": bool(getattr(result, "is_duplicate", False))}, status=202)

    def check_arguments(self, arguments: Any) -> None:
        """Raises: ImproperlyConfigured where it is not the sender who is to blame that no job can be made."""
        what = f"{type(self).__name__}.arguments()"
        if not isinstance(arguments, Mapping):
            raise ImproperlyConfigured(f"{what} must return a dict or None, not {type(arguments).__name__}")
        try:
            payload.bound(self.task.func, self.task.takes_context, (), arguments)
        except InvalidPayload as error:
            raise ImproperlyConfigured(f"{what} does not fit the task: {error}") from error

    def check_holder(self, held: DuplicateJob) -> None:
        """Raises: ImproperlyConfigured unless the event has a job of this task: it would be lost with a good answer."""
        if held.job_id is None:
            raise held  # nobody knows whose it is, or whether it will be there
        if not storage().jobs.filter(pk=held.job_id, task_path=self.task.module_path).exists():
            raise ImproperlyConfigured(
                f"{type(self).__name__}: an event of source {self.source!r} is held {held.held}. "
                "Views with different tasks need a source each."
            ) from held

    def is_done(self, key: str) -> bool:
        """Say whether the effect of an event has happened: then it needs no job that finds that out."""
        record = f"{self.task.module_path}|{key}"
        return bool(storage().rows(IdempotencyRecord).filter(key=record, state=RecordState.DONE).exists())
