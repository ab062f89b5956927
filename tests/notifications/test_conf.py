"""The NOTIFICATIONS setting and the system checks."""

import pytest
from django.core.checks.registry import registry

from notifications import checks, conf
from notifications.catalogue import TEMPLATES

pytestmark = pytest.mark.any_database


def problems():
    return [message.msg for message in [*checks.check_settings(), *checks.check_templates()]]


def test_the_checks_are_registered():
    assert {checks.check_settings, checks.check_templates} <= set(registry.get_checks())


def test_the_defaults_are_right(settings):
    settings.NOTIFICATIONS = {}

    assert problems() == []
    assert conf.current() == conf.Conf()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("BACKOF_BASE", 1, "NOTIFICATIONS has no 'BACKOF_BASE'. Did you mean 'BACKOFF_BASE'?"),
        ("smtp_timeout", 1, "NOTIFICATIONS has no 'smtp_timeout'. Did you mean 'SMTP_TIMEOUT'?"),
        ("COLOUR", 1, "NOTIFICATIONS has no 'COLOUR'. There are: API_TOKENS, BACKOFF_BASE"),
        (7, 1, "NOTIFICATIONS has no 7."),
        ("BACKOFF_BASE", "5", "NOTIFICATIONS['BACKOFF_BASE'] must be a number of seconds above 0, not '5'."),
        ("BACKOFF_BASE", 0, "above 0"),
        ("BACKOFF_CAP", True, "above 0"),
        ("BACKOFF_CAP", float("nan"), "above 0"),
        ("SMTP_TIMEOUT", 60, "NOTIFICATIONS['SMTP_TIMEOUT'] must be at most 10 seconds, not 60."),
        ("RESEND_UNCERTAIN", "yes", "NOTIFICATIONS['RESEND_UNCERTAIN'] must be True or False, not 'yes'."),
        ("MAX_BODY", 1.5, "NOTIFICATIONS['MAX_BODY'] must be a number of bytes above 0, not 1.5."),
        ("SITE_URL", "example.com", "must begin with https:// or http://, not 'example.com'."),
        ("API_TOKENS", ["secret"], "must be a dict from the caller's name to its token."),
        ("API_TOKENS", {"shop": "short"}, "has a token of less than 16 characters, for 'shop'."),
        ("API_TOKENS", {"shop": "with a space in it"}, "has a token with spaces"),
        ("API_TOKENS", {"shop": "one-token-for-two", "crm": "one-token-for-two"}, "the same token for two callers"),
    ],
)
def test_a_wrong_setting_is_named(settings, key, value, said):
    settings.NOTIFICATIONS = {key: value}

    (problem,) = problems()
    assert said in problem


def test_a_token_is_never_printed(settings):
    settings.NOTIFICATIONS = {"API_TOKENS": {"shop": "hunter2"}}

    assert "hunter2" not in "".join(problems())
    assert "hunter2" not in repr(conf.current())


def test_the_setting_must_be_a_dict(settings):
    settings.NOTIFICATIONS = ["SMTP_TIMEOUT"]

    assert problems() == ["NOTIFICATIONS must be a dict, not a list."]


def test_a_missing_file_of_a_template_is_found_at_the_start(monkeypatch):
    monkeypatch.setitem(TEMPLATES, "goodbye", TEMPLATES["welcome"])

    assert [problem.split(" cannot")[0] for problem in problems()] == [
        f"The e-mail template notifications/goodbye/{part}" for part in ("subject.txt", "body.txt", "body.html")
    ]


def test_links_need_a_site_but_on_a_developers_machine(settings):
    settings.NOTIFICATIONS = {}
    settings.DEBUG = False
    assert conf.site_url() == ""

    settings.DEBUG = True
    assert conf.site_url() == "http://127.0.0.1:8000"
