"""Doing in a test what a person does in the admin: choose rows and an action, read the question, say yes."""

import html
import re
from typing import Any

from django.contrib.messages import get_messages
from django.http import HttpResponse
from django.test import Client


def choose(client: Client, url: str, action: str, *ids: int, across: bool = False) -> Any:
    """Select rows of a list and run an action on them; returns the question."""
    data = {"action": action, "index": "0", "select_across": str(int(across)), "_selected_action": list(ids)}
    return client.post(url, data)


def answer_yes(client: Client, url: str, question: Any, **more: str) -> Any:
    """Send the form of a question as a browser would."""
    data: dict[str, Any] = {}
    for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', question.content.decode()):
        data.setdefault(html.unescape(name), []).append(html.unescape(value))
    return client.post(url, data | more)


def run(client: Client, url: str, action: str, *ids: int, across: bool = False) -> Any:
    return answer_yes(client, url, choose(client, url, action, *ids, across=across))


def said(response: HttpResponse) -> list[str]:
    """Return the messages that the person reads next."""
    return [str(message) for message in get_messages(response.wsgi_request)]  # type: ignore[attr-defined]
