"""Says in HTTP what a full queue says to whoever enqueues."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from .exceptions import QueueFull


class QueueFullMiddleware:
    """Answers 503 with `Retry-After`, in seconds, where a view lets `QueueFull` pass."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, QueueFull):
            return None
        seconds = max(1, round(exception.retry_after))
        text = f"Too much work is waiting. Please try again in {seconds} s.\n"
        return HttpResponse(text, status=503, content_type="text/plain", headers={"Retry-After": str(seconds)})
