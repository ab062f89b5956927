"""Every page of this admin, as a browser with a strict policy gets it."""

import re
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders
from django.urls import reverse
from django.utils import timezone

from jobs.models import Queue, Worker

from .rows import a_record, an_uncertain_letter

MODELS = ["job", "deadletter", "errorgroup", "queue", "idempotencyrecord", "worker"]


@pytest.fixture
def pages(db):
    """Return every list, page and question."""
    letter, now = an_uncertain_letter(), timezone.now()
    rows = {
        "job": letter.job,
        "deadletter": letter,
        "errorgroup": letter.group,
        "queue": Queue.objects.create(name="default", paused=True, paused_at=now),
        "idempotencyrecord": a_record(key="another"),
        "worker": Worker.objects.create(
            worker_id="w", tree="t", hostname="h", pid=1, threads=1, started_at=now, last_seen_at=now
        ),
    }
    actions = {
        "job": ["cancel"],
        "deadletter": ["replay", "happened", "not_happened", "delete"],
        "queue": ["pause", "resume"],
        "idempotencyrecord": ["delete"],
    }
    return [
        *(reverse(f"admin:jobs_{model}_changelist") for model in rows),
        *(reverse(f"admin:jobs_{model}_change", args=[row.pk]) for model, row in rows.items()),
        *(
            reverse(f"admin:jobs_{model}_{name}", args=[rows[model].pk])
            for model, names in actions.items()
            for name in names
        ),
    ]


def test_every_page_opens(pages, admin_client):
    assert {url: admin_client.get(url).status_code for url in pages} == dict.fromkeys(pages, 200)


def test_our_own_parts_of_a_page_have_no_inline_script_or_style(pages, admin_client):
    texts = {url: admin_client.get(url).content.decode() for url in pages}

    for url, text in texts.items():
        assert not re.search(r"<script(?![^>]*\bsrc=)[^>]*>\s*\S", text), url
        assert not re.search(r'\son\w+="', text), url
        assert "<style" not in text, url
        assert not re.search(r'\sstyle="', text), url


def test_every_page_has_our_style_sheet_and_it_exists(pages, admin_client):
    for url in pages:
        assert "jobs/admin.css" in admin_client.get(url).content.decode(), url

    assert finders.find("jobs/admin.css")


def test_every_list_and_page_begins_with_what_is_wrong_or_to_do(pages, admin_client):
    for url in pages[: 2 * len(MODELS)]:
        lead = admin_client.get(url).context["lead"]
        assert lead, url
        assert str(lead.text).endswith((".", "runworker")), url


def test_a_style_sheet_takes_its_colours_from_the_admin():
    sheet = Path(str(finders.find("jobs/admin.css"))).read_text()

    colours = re.findall(r"(?:color|background|border[\w-]*):([^;]*);", sheet)

    assert colours
    assert not any(re.search(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl", value) for value in colours)


def test_a_text_goes_with_every_mark(pages, admin_client):
    for url in pages:
        for badge in re.findall(
            r'<span class="jobs-badge[^>]*>.*?</span>(.*?)</span>', admin_client.get(url).content.decode()
        ):
            assert badge.strip(), url
