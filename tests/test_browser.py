"""The pages, seen with a real browser."""

import pytest


@pytest.mark.django_db(transaction=True)
def test_a_person_can_sign_in_to_the_admin(browser, live_server, admin_user):
    browser.goto(f"{live_server.url}/admin/")
    browser.fill("[name=username]", "admin")
    browser.fill("[name=password]", "password")
    browser.click("[type=submit]")

    assert browser.inner_text("#content h1") == "Site administration"
