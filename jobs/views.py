"""What machines ask over HTTP: the metrics of the queue, and whether this process is alive and ready."""

from django.conf import settings
from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from . import health
from .metrics import DatabaseCollector, exposition

TEXT = "text/plain; charset=utf-8"


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Serve the gauges of the database to whoever has the token of `JOBS_METRICS_TOKEN`, or is staff."""
    if not has_token(request) and not is_staff(request):
        return refusal(request)
    try:
        body, content_type = exposition(DatabaseCollector(), request.headers.get("Accept", ""))
    except Error:
        return HttpResponse("The database did not answer; see the log of the web server.\n", TEXT, 503)
    return HttpResponse(body, content_type)


@require_safe
@never_cache
def healthz(request: HttpRequest) -> HttpResponse:
    """Say that this process answers requests. The database is not asked."""
    return HttpResponse("alive\n", TEXT)


@require_safe
@never_cache
def readyz(request: HttpRequest) -> HttpResponse:
    """Say whether the database is reachable and migrated; 503 and the reason when not."""
    problem = health.problem()
    return HttpResponse(f"{problem}\n", TEXT, 503) if problem else HttpResponse("ready\n", TEXT)


def has_token(request: HttpRequest) -> bool:
    expected = getattr(settings, "JOBS_METRICS_TOKEN", "")
    scheme, _space, token = request.headers.get("Authorization", "").partition(" ")
    return bool(expected) and scheme.lower() == "bearer" and constant_time_compare(token.strip(), expected)


def is_staff(request: HttpRequest) -> bool:
    user = getattr(request, "user", None)
    return user is not None and user.is_active and user.is_staff


def refusal(request: HttpRequest) -> HttpResponse:
    user = getattr(request, "user", None)
    if "Authorization" in request.headers or (user is not None and user.is_authenticated):
        return HttpResponse("These credentials do not open the metrics.\n", TEXT, 403)
    response = HttpResponse("Send the token in JOBS_METRICS_TOKEN as a bearer token, or log in as staff.\n", TEXT, 401)
    response["WWW-Authenticate"] = 'Bearer realm="jobs metrics"'
    return response
