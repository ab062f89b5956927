"""Running `manage.py jobs` inside of a test."""

import io
import json
from typing import Any, NamedTuple

from django.core.management import CommandError, call_command


class Ran(NamedTuple):
    """What the command printed; `error` is what it failed with, empty when it did not."""

    out: str
    err: str
    error: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def jobs(*words: object) -> Ran:
    out, err, error = io.StringIO(), io.StringIO(), ""
    try:
        call_command("jobs", *map(str, words), stdout=out, stderr=err)
    except CommandError as failed:
        error = str(failed)
    return Ran(out.getvalue(), err.getvalue(), error)
