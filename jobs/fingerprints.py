"""Which deaths are the same: task, exception class, and the message without what differs from job to job."""

import hashlib
import re

# In this order: an address contains numbers, a UUID contains words.
VARIABLE_PARTS = [
    (re.compile(r"0x[0-9a-fA-F]+"), "<address>"),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*"), "<email>"),
    (re.compile(r"\w+://\S+"), "<url>"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}\b"), "<uuid>"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b"), "<host>"),
    (re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`"), "<quoted>"),
    (re.compile(r"\b(?=[a-fA-F]*\d)[0-9a-fA-F]{12,}\b"), "<id>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<number>"),
]


def shape_of(message: str) -> str:
    """Return a message without its numbers, ids, quoted values and addresses."""
    for pattern, word in VARIABLE_PARTS:
        message = pattern.sub(word, message)
    return " ".join(message.split())


def fingerprint(task_path: str, exception_class: str, message: str) -> str:
    """Return the same 64 characters for deaths that one person would call the same."""
    text = "\x1f".join((task_path, exception_class, shape_of(message[:2000])))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
