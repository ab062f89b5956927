"""Log lines that a person reads and a machine splits: the event, then its fields as key=value."""

import json
import logging

PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class EventFormatter(logging.Formatter):
    """Format one event as `2026-01-31 12:00:00,000 WARNING jobs: attempt settled job_id=42 outcome=failed`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = (f"{name}={shown(value)}" for name, value in vars(record).items() if name not in PLAIN)
        return " ".join([super().formatMessage(record), *fields])


def shown(value: object) -> str:
    """Return the value in one word: quoted like JSON where it has spaces, quotes, line breaks, or an equals sign."""
    text = str(value)
    return text if text.isprintable() and text and not set(text) & set(' "=') else json.dumps(text)


def speak_where_nobody_listens() -> None:
    """Write what a worker has to say to stderr where the project's LOGGING has no place for it: from INFO up."""
    log = logging.getLogger("jobs")
    if log.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(EventFormatter())
    log.addHandler(handler)
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
