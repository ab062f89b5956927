"""What the other tests stand on."""

import threading

import pytest
from django.db import connection


@pytest.mark.django_db(transaction=True)
def test_the_database_under_test_is_the_one_that_was_asked_for(vendor):
    assert vendor == connection.vendor


@pytest.mark.django_db(transaction=True)
def test_another_thread_sees_the_same_rows(django_user_model):
    django_user_model.objects.create(username="ada")

    def look():
        found.extend(django_user_model.objects.values_list("username", flat=True))
        connection.close()

    found: list[str] = []
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()

    assert found == ["ada"]


def test_eventually_gives_up_with_the_last_value(eventually):
    with pytest.raises(AssertionError, match="last value: 0"):
        eventually(lambda: 0, within=0.05)
