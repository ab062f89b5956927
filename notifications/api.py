"""The HTTP API: POST enqueues an e-mail and answers 202, GET says what became of it. Every refusal is JSON."""

import functools
import uuid
from collections.abc import Callable
from typing import Any

from django.db import IntegrityError, router, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt

from . import tracking
from .bodies import body_of, digest_of, key_of, order_of
from .callers import Caller, Denied, caller_of, refuse_forged
from .exceptions import Refused
from .models import Answer, Email
from .outbox import notify

View = Callable[..., HttpResponse]


def json_view(*methods: str) -> Callable[[View], View]:
    """Answer every refusal in JSON, and methods that are not served with 405."""

    def decorated(view: View) -> View:
        @functools.wraps(view)
        def answering(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            if request.method not in methods:
                response = refusal(405, "method", f"send {' or '.join(methods)}")
                response["Allow"] = ", ".join(methods)
                return response
            try:
                return view(request, **kwargs)
            except Denied as denied:
                return refusal(denied.code, denied.field, denied.message)
            except Refused as refused:
                return refusal(422, refused.field, refused.message)

        # A token is no cookie: `post` itself asks for the CSRF token where there is a session.
        return never_cache(csrf_exempt(answering))

    return decorated


def refusal(code: int, field: str, message: str) -> JsonResponse:
    response = JsonResponse({"error": {"field": field, "message": message}}, status=code)
    if code == 401:
        response["WWW-Authenticate"] = 'Bearer realm="notifications"'
    return response


@json_view("POST")
def emails(request: HttpRequest) -> HttpResponse:
    """Enqueue one e-mail."""
    caller = caller_of(request)
    if caller.has_session:
        refuse_forged(request)
    if not caller.may_add:
        raise Denied(403, "Authorization", "this needs the permission notifications.add_email")
    key = key_of(request)
    body = body_of(request)
    content = first_answer(caller, key, body) if key else enqueued(body)
    return JsonResponse(content, status=202, headers={"Location": content["status_url"]})


@json_view("GET", "HEAD")
def email(request: HttpRequest, delivery_id: uuid.UUID) -> HttpResponse:
    """Say what became of one e-mail: neither its address nor what the mail server said of it."""
    if not caller_of(request).may_view:
        raise Denied(403, "Authorization", "this needs the permission notifications.view_email")
    found = Email.objects.select_related("job").filter(pk=delivery_id).first()
    if found is None:
        raise Denied(404, "delivery_id", "there is no such e-mail")
    return JsonResponse(
        {
            "delivery_id": str(found.delivery_id),
            "template_id": found.template_id,
            "state": tracking.current_state(found),
            "attempts": found.attempts,
            "job_id": job_id_of(found),
            "created_at": found.created_at,
            "sent_at": found.sent_at,
            "status_url": status_url(found),
        }
    )


def enqueued(body: dict[str, Any]) -> dict[str, Any]:
    recipient, template_id, references = order_of(body)
    try:
        written = notify(recipient, template_id, **reserved_refused(references))
    except Refused as refused:
        raise Refused("user_id" if refused.field == "user" else refused.field, refused.message) from None
    return {
        "delivery_id": str(written.delivery_id),
        "job_id": job_id_of(written),
        "status_url": status_url(written),
    }


def first_answer(caller: Caller, key: str, body: dict[str, Any]) -> dict[str, Any]:
    """Enqueue unless this caller's key was answered before: then that answer, or 409 when the body was another."""
    mine = Answer(caller=caller.name, key=key, digest=digest_of(body))
    if saved := answered(mine):
        return saved
    try:
        with transaction.atomic(using=router.db_for_write(Answer)):
            mine.save(force_insert=True)
            mine.content = enqueued(body)
            mine.save(update_fields=["content"])
    except IntegrityError:
        # A request at the same time was faster, and the unique constraint has waited for its end.
        if saved := answered(mine):
            return saved
        raise
    return mine.content


def answered(mine: Answer) -> dict[str, Any]:
    """Raises: Denied when the first request with this key had another body."""
    first = Answer.objects.filter(caller=mine.caller, key=mine.key).first()
    if first is None:
        return {}
    if first.digest != mine.digest:
        raise Denied(409, "Idempotency-Key", "this key was used with another body")
    content: dict[str, Any] = first.content
    return content


def reserved_refused(references: dict[str, Any]) -> dict[str, Any]:
    """Refuse the names that are arguments of `notify` itself."""
    for name in ("user_or_address", "template_id", "idempotency_key"):
        if name in references:
            raise Refused(f"references.{name}", "this template has no such reference")
    return references


def job_id_of(email: Email) -> str | None:
    return None if email.job_id is None else str(email.job_id)


def status_url(email: Email) -> str:
    return reverse("notifications:email", args=[email.delivery_id])
