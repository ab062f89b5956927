"""Addresses that get no mail any more, because one came back for good or was called spam."""

from .models import Email, SuppressedAddress


def of(address: str) -> SuppressedAddress | None:
    return SuppressedAddress.objects.filter(address=address.lower()).first()


def suppress(email: Email, reason: SuppressedAddress.Reason) -> None:
    """Send nothing more to where this mail went. The first reason is kept."""
    if address := email.sent_to.lower():
        SuppressedAddress.objects.get_or_create(address=address, defaults={"reason": reason, "email": email})
