"""Who looks: a superuser, or staff with just the permissions that a test names."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client


@pytest.fixture
def staff(db: None) -> Callable[..., Client]:
    """Log in a member of staff: `staff("view_deadletter", "replay_job")`."""

    def log_in(*permissions: str) -> Client:
        user = User.objects.create_user(f"staff{User.objects.count()}", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(content_type__app_label="jobs", codename__in=permissions))
        assert user.user_permissions.count() == len(permissions)
        client = Client()
        client.force_login(user)
        return client

    return log_in
