"""The guard against secrets, held against a corpus: what must be found, and what must never be accused."""

import dataclasses
import json
import logging
import sys
import traceback

import pytest
from django.core.exceptions import ImproperlyConfigured

from jobs import enqueue_many, secrets
from jobs.compat import task_finished
from jobs.conf import Options
from jobs.exceptions import InvalidPayload
from jobs.models import Job
from jobs.outcomes import ErrorReport, Redacted, loggable
from jobs.payload import encoded_value
from jobs.testing import run_jobs
from tests import tasks

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl"
PEM = "-----BEGIN {}PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END {}PRIVATE KEY-----"


def made_of(prefix: str, length: int, letters: str = LETTERS) -> str:
    """Put a key together here, so that no scanner of this repository finds one."""
    return prefix + "".join(letters[n * 7 % len(letters)] for n in range(length))


HEX = "0123456789abcdef"
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

SECRET_VALUES = [
    PEM.format("", ""),
    PEM.format("RSA ", "RSA "),
    PEM.format("EC ", "EC "),
    PEM.format("OPENSSH ", "OPENSSH "),
    PEM.format("ENCRYPTED ", "ENCRYPTED "),
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQOYBF\n",
    JWT,
    f"the token was {JWT}, I think",
    made_of("AKIA", 16, UPPER),
    made_of("ASIA", 16, UPPER),
    made_of("AIza", 35),
    made_of("ya29.", 60),
    made_of("GOCSPX-", 28),
    *(made_of(f"gh{kind}_", 36) for kind in "pousr"),
    made_of("github_pat_", 60),
    made_of("glpat-", 20),
    made_of("xoxb-", 40),
    made_of("xoxp-", 40),
    made_of("xapp-1-", 40),
    "https://" + "hooks.slack.com/services/" + made_of("T", 8, UPPER) + made_of("/B", 8, UPPER) + made_of("/", 24),
    made_of("sk_live_", 24),
    made_of("sk_test_", 24),
    made_of("rk_live_", 24),
    made_of("whsec_", 32),
    made_of("sk-", 48),
    made_of("sk-ant-api03-", 60),
    made_of("sk-proj-", 60),
    made_of("hf_", 34, LETTERS[:52]),
    made_of("SG.", 22) + made_of(".", 43),
    made_of("key-", 32, HEX),
    made_of("xkeysib-", 64, HEX),
    made_of("npm_", 36),
    made_of("pypi-AgEI", 60),
    made_of("dckr_pat_", 27),
    made_of("dop_v1_", 64, HEX),
    made_of("shpat_", 32, HEX),
    made_of("sq0atp-", 22),
    "DefaultEndpointsProtocol=https;AccountKey=" + made_of("", 86) + "==",
    "postgres://app:hunter2@db.example.com/app",
    "https://user:pass@example.com/",
    "redis://:hunter2@cache:6379/0",
    "https://user:hunter2:x@example.com/",
    "https://user:x:hunter2@example.com/",
    "https://" + made_of("ghp_", 36) + ":x@github.com/o/r",
    "https://" + made_of("ghp_", 36) + ":xxxx@github.com/o/r",
    "https://k3yAbCdEf99:X@acme.example.com/api",
    "https://user:<s3cr3t!>@example.com/",
    "amqps://guest:guest@[::1]:5671",
    "Bearer " + made_of("", 32),
    "Authorization: Bearer " + JWT,
    "Basic dXNlcjpwYXNzd29yZA==",
    "4111111111111111",
    "4111 1111 1111 1111",
    "4242-4242-4242-4242",
    "5555555555554444",
    "2223003122003222",
    "378282246310005",
    "3782 822463 10005",
    "6011111111111117",
    "3530111333300000",
    "30569309025904",
    "please charge 4012 8888 8888 1881 again",
    4111111111111111,
    378282246310005,
]
SECRET_NAMES = [
    {"password": "hunter2"},
    {"Password": "hunter2"},
    {"userPassword": "hunter2"},
    {"new_password1": "hunter2"},
    {"password": 12345678},
    {"passwd": "hunter2"},
    {"db_pwd": "hunter2"},
    {"passphrase": "correct horse"},
    {"secret": "s3"},
    {"client_secret": "s3"},
    {"token": "abc"},
    {"accessToken": "abc"},
    {"refresh-token": "abc"},
    {"reset_token": "abc"},
    {"api_key": "abc"},
    {"apiKey": "abc"},
    {"APIKey": "abc"},
    {"x-api-key": "abc"},
    {"secret_key": "abc"},
    {"private_key": "abc"},
    {"signingKey": "abc"},
    {"Authorization": "abc"},
    {"Cookie": "sessionid=abc"},
    {"set-cookie": "a=b"},
    {"session_id": "abc"},
    {"credentials": {"user": "u", "pass": "p"}},
    {"cvv": "123"},
    {"cvv": 123},
    {"cvc": 123},
    {"card_number": "4"},
    {"cardNumber": 4},
    {"security_code": 123},
    {"jwt": "abc"},
    {"ssn": "078-05-1120"},
    {"otp": 123456},
    {"connection_string": "abc"},
    {"backup_code": "abc"},
]
POSITIVES = [*SECRET_VALUES, *SECRET_NAMES]

INNOCENT_NAMES = """
email email_id user_id order_id invoice_id delivery_id template_id locale subject body to cc title name path
url count page page_token next_page_token cursor_token lease_token settled_token sync_token max_tokens
token_count tokens tokenizer password_reset password_changed_at password_hint_shown secret_santa_id secretary
keyboard key keys primary_key foreign_key cache_key sort_key dedupe_key idempotency_key partition_key
public_key object_key row_key authorized author authors authority cookie_banner cookies_accepted card card_id
card_brand card_last4 number order_number phone_number invoice_number tracking_number session session_count
pin_color pinned pinned_at code country_code zip_code postal_code currency_code error_code promo_code
passport_country passenger passengers bypass compass access access_level accessed_at api api_version basic
bearer_of_news private is_private privacy signature signed_at hash checksum etag certificate_id
credential_count jwt_count ssn_missing token_id token_type secret_id
"""
INNOCENT_VALUES = [
    "",
    "x",
    "hello world",
    "password",
    "Your password was changed",
    "Reset your password here",
    "The secret of success",
    "a@example.com",
    "Ada Lovelace <ada@example.com>",
    "https://example.com/a/b?c=d#e",
    "https://example.com:8000/path",
    "https://example.com/@user:handle",
    "http://localhost:8000/",
    "postgres://localhost/app",
    "postgres://app@db.example.com:5432/app",
    "mailto:a@example.com",
    "s3://bucket/key/with:colon@2x.png",
    "https://cdn.example.com/logo@2x.png",
    "https://example.com/?next=a:b@c",
    "2026-11-28T18:16:09.619+00:00",
    "12:30:45",
    "550e8400-e29b-41d4-a716-446655440000",
    "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "d41d8cd98f00b204e9800998ecf8427e",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "+49 30 123456",
    "+1 (555) 010-9999",
    "0049 151 2345 6789",
    "DE89 3704 0044 0532 0130 00",
    "GB29NWBK60161331926819",
    "978-3-16-148410-0",
    "9783161484100",
    "4006381333931",
    "1Z999AA10123456784",
    "1716239022123456",
    "4111111111111112",
    "4111 1111 1111 1112",
    "order 4111-1111",
    "1234567890123456",
    "0000000000000000",
    "4444444444444444",
    "20261128181609619",
    "192.168.0.1",
    "2001:db8::1",
    "v1.2.3-rc.4",
    "sk-SK",
    "sk-learn-is-not-a-key",
    "task-queue-for-django-projects",
    "key-value",
    "key-account-manager",
    "SG.com",
    "re_examined_the_matter",
    "hf_",
    "npm_config_cache",
    "Bearer of good news",
    "Basic understanding",
    "the basic introduction",
    "Basic",
    "eyJ",
    "AKIA",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE me@host",
    "<html><body>Dear customer, your invoice is attached.</body></html>",
    "{{ user.first_name }}",
    "SELECT id FROM auth_user WHERE password IS NULL",
    "reports/2026/11/28/sales.csv",
    "C:\\Users\\ada\\invoice.pdf",
    "tests.tasks.add",
    "Zürich, Straße 5",
    "日本語のテキスト",
    "🙂🙂🙂",
]
INNOCENT = [
    *({name: "something"} for name in INNOCENT_NAMES.split()),
    *({"text": value} for value in INNOCENT_VALUES),
    *(
        {name: value}
        for name in ("password", "token", "secret", "api_key")
        for value in (None, "", True, False, "****")
    ),
    {"token": 3},
    {"has_password": True},
    {"password": "<hidden>"},
    {"api_key": "XXXX"},
    {"url": "postgres://app:***@db.example.com/app"},
    {"url": "https://user:xxxx@example.com/"},
    {"url": "redis://:[redacted]@cache:6379/0"},
    {"credentials": {}},
    {"n": 4111111111111112},
    {"n": 1716239022123456},
    {"n": 10**18},
    {"n": -4111111111111111},
    {"n": 0.1},
    {"nested": [{"a": [1, 2, {"b": "c"}]}]},
    {"a" * 70 + "_password": "a key of text is no name"},
]


def test_the_corpus_is_as_large_as_it_must_be():
    assert len(POSITIVES) >= 60
    assert len(INNOCENT) >= 200


@pytest.mark.parametrize("value", SECRET_VALUES, ids=lambda value: str(value)[:12])
def test_a_value_that_looks_like_a_secret_is_found_and_redacted_wherever_it_stands(value):
    payload = {"a": [{"b": value}]}

    assert secrets.may_hold_any(payload)
    [(path, what)] = secrets.found_in(payload, "payload")

    assert path == "payload['a'][0]['b']"
    assert str(value) not in what
    assert str(value) not in json.dumps(secrets.redacted(payload))
    assert secrets.REDACTED in json.dumps(secrets.redacted(payload))


@pytest.mark.parametrize("payload", SECRET_NAMES, ids=lambda payload: next(iter(payload)))
def test_a_value_under_the_name_of_a_secret_is_found_and_redacted(payload):
    [name] = payload

    assert secrets.may_hold_any(payload)
    [(path, what)] = secrets.found_in(payload, "payload")

    assert path == f"payload[{name!r}]"
    assert repr(name) in what
    assert secrets.redacted(payload) == {name: secrets.REDACTED}
    assert list(secrets.found_in(secrets.redacted(payload), "payload")) == []


@pytest.mark.parametrize("payload", INNOCENT, ids=lambda payload: f"{next(iter(payload.items()))}"[:30])
def test_an_innocent_payload_is_never_accused_nor_changed(payload):
    assert list(secrets.found_in(payload, "payload")) == []
    assert secrets.redacted(payload) == payload


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("connection failed: password=hunter2 host=db", "connection failed: password=[redacted] host=db"),
        ("{'token': 'hunter2', 'user': 7}", "{'token': '[redacted]', 'user': 7}"),
        ('{"api_key": "hunter2"}', '{"api_key": "[redacted]"}'),
        ("https://example.com/?access_token=hunter2&page=2", "https://example.com/?access_token=[redacted]&page=2"),
        ("could not reach postgres://app:hunter2@db/app", "could not reach postgres://[redacted]@db/app"),
        ("declined: 4111 1111 1111 1111", "declined: [redacted]"),
        ("    connect(password=settings.DB_PASSWORD)", "    connect(password=settings.DB_PASSWORD)"),
        ("    token = make_token(user)", "    token = make_token(user)"),
        ("    if token: return", "    if token: return"),
        ("token: 3, count=4", "token: 3, count=4"),
    ],
)
def test_free_text_loses_its_secrets_and_nothing_else(text, kept):
    assert secrets.redacted_text(text) == kept


# At enqueue, and in what is stored


def use(settings, **options):
    settings.TASKS = {"default": settings.TASKS["default"] | {"OPTIONS": options}}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        ((), {"a": {"password": "hunter2"}}, "a['password']"),
        ((), {"a": 1, "b": ["x", "Bearer " + "hunter2" * 4]}, "b[1]"),
        (("https://ada:hunter2@example.com",), {}, "a"),
    ],
)
def test_a_secret_is_refused_at_enqueue_by_its_path_and_never_its_text(args, kwargs, path, django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(InvalidPayload) as refused:
        tasks.add.enqueue(*args, **kwargs)

    assert f"add: {path} holds" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert f"allow_secrets=({path!r},)" in str(refused.value)


@pytest.mark.django_db
def test_an_argument_s_own_name_counts_however_it_is_passed():
    for args, kwargs in ((("hunter2",), {}), ((), {"password": "hunter2"})):
        with pytest.raises(InvalidPayload, match="sign_in: password holds the value of 'password'"):
            tasks.sign_in.enqueue(*args, **kwargs)


@pytest.mark.django_db
def test_one_secret_among_many_jobs_keeps_all_of_them_out():
    with pytest.raises(InvalidPayload, match="b holds a card number"):
        enqueue_many(tasks.add, [{"a": 1}, {"a": 2, "b": "4111 1111 1111 1111"}])

    assert Job.objects.count() == 0


@pytest.mark.django_db
def test_a_path_that_the_task_allows_is_let_through_with_all_beneath_it():
    allowing = dataclasses.replace(tasks.add, allow_secrets=("a['headers']",))

    allowing.enqueue(a={"headers": {"Authorization": "hunter2"}})

    assert Job.objects.get().kwargs == {"a": {"headers": {"Authorization": "hunter2"}}}
    with pytest.raises(InvalidPayload, match=r"a\['token'\] holds"):
        allowing.enqueue(a={"headers": {}, "token": "hunter2"})


@pytest.mark.django_db
def test_the_guard_may_only_warn(settings, caplog):
    use(settings, secrets="warn")

    tasks.add.enqueue(a={"password": "hunter2"})

    assert Job.objects.count() == 1
    assert [(record.message, record.path) for record in caplog.records] == [("secret in a payload", "a['password']")]
    assert "hunter2" not in caplog.text


@pytest.mark.django_db
def test_the_guard_may_be_off(settings, caplog):
    use(settings, secrets="off")

    tasks.add.enqueue(a={"password": "hunter2"})

    assert Job.objects.count() == 1
    assert caplog.records == []


def test_what_an_exception_says_is_kept_without_its_secrets():
    try:
        raise ConnectionError("no way to postgres://app:hunter2@db/app with password='hunter2'")
    except ConnectionError as error:
        report = ErrorReport.of(error)

    assert report.message == "no way to postgres://[redacted]@db/app with password='[redacted]'"
    assert "hunter2" not in report.traceback.replace('raise ConnectionError("no way to', "")
    assert "ConnectionError" in report.traceback


def test_what_a_task_returns_is_stored_without_its_secrets():
    assert encoded_value({"token": "hunter2", "n": 1}, "sign_in", 1000) == '{"token":"[redacted]","n":1}'
    assert encoded_value([1, "x"], "sign_in", 1000) == '[1,"x"]'


@pytest.mark.django_db
def test_what_logs_and_receivers_print_of_an_exception_has_no_secret_in_it(caplog):
    seen = []

    def printed(**kwargs):
        seen.append("".join(traceback.format_exception(sys.exception())))

    task_finished.connect(printed)
    try:
        with caplog.at_level(logging.DEBUG):
            tasks.misconnected.enqueue()
            run_jobs()
    finally:
        task_finished.disconnect(printed)

    assert "ConnectionError: no way to postgres://[redacted]@db/app" in seen[0]
    assert "ConnectionError: no way to postgres://[redacted]@db/app" in caplog.text
    assert "hunter2" not in caplog.text + seen[0]


def test_an_exception_without_a_secret_is_logged_as_it_is():
    def connect(password):
        raise ValueError("no way to postgres://db/app")

    with pytest.raises(ValueError, match="no way") as raised:
        connect(password=str(7))  # a line that the traceback quotes

    assert loggable(raised.value) is raised.value


def test_a_secret_in_a_cause_a_note_or_a_group_is_found_too():
    secret = ConnectionError("no way to postgres://app:hunter2@db/app")
    caused, noted = ValueError("no"), ValueError("no")
    caused.__cause__ = secret
    noted.add_note(str(secret))

    for error in (caused, noted, ExceptionGroup("two", [ValueError("no"), secret])):
        assert isinstance(loggable(error), Redacted)
        assert "hunter2" not in str(loggable(error))


@pytest.mark.django_db
def test_an_argument_that_goes_by_its_place_alone_has_its_name_too():
    with pytest.raises(InvalidPayload, match="unlock: password holds the value of 'password'"):
        tasks.unlock.enqueue("hunter2")

    with pytest.raises(InvalidPayload, match="unlock: password holds"):
        tasks.unlock.enqueue("hunter2", "the cat's name")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "options",
    [{"dedupe_key": "{b}" * 9}, {"dedupe_key": lambda a, b: [b]}, {"validate": lambda a, b: int(b)}],
    ids=["a key that is too long", "a key of the wrong kind", "a validator"],
)
def test_what_else_is_wrong_with_a_payload_is_told_only_where_it_holds_no_secret(options):
    secret = f"postgres://app:hunter2@db/{'x' * 50}"

    with pytest.raises(InvalidPayload, match="b holds a password") as refused:
        dataclasses.replace(tasks.add, **options).enqueue(1, secret)

    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("allowed", ["password", ["password"], (1,)])
def test_paths_to_allow_are_a_tuple_of_text(allowed):
    with pytest.raises(ImproperlyConfigured, match="allow_secrets takes a tuple of paths"):
        dataclasses.replace(tasks.add, allow_secrets=allowed)


def test_the_option_takes_three_words():
    with pytest.raises(ImproperlyConfigured, match="must be 'reject', 'warn' or 'off', not True"):
        Options.parse({"secrets": True})
