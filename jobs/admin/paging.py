"""Pages of a list that may be long: counted up to a limit, because an exact count reads every row."""

from typing import Any

from django.core.paginator import Paginator
from django.utils.functional import cached_property

from .. import stats


def row_id(text: str) -> int:
    """Return the primary key that somebody typed, or 0, which no row has."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


class CappedPaginator(Paginator):
    object_list: Any

    @cached_property
    def count(self) -> int:
        """The number of rows; `stats.MAX_COUNTED` means that many or more, and the pages end there."""
        return stats.counted(self.object_list)
