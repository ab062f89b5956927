"""E-mail through the job queue: the first application on top of `jobs`.

`notify(user_or_address, template_id, **references)` is all that a project needs to import.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .outbox import notify as notify

__all__ = ["notify"]


def __getattr__(name: str) -> Any:
    # Resolved on first use: Django imports this package before the models may be imported.
    if name != "notify":
        raise AttributeError(f"module 'notifications' has no attribute {name!r}")
    from .outbox import notify

    return notify
