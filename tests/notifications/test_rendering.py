"""From a row to the message; what cannot be rendered now never can."""

import re
from typing import Any

import pytest

from notifications import notify
from notifications.catalogue import TEMPLATES
from notifications.exceptions import ContentRefused, RecipientRefused
from notifications.rendering import rendered

REFERENCES = {
    "welcome": {},
    "password_reset": {},
    "invoice_reminder": {"invoice_number": "2026-<17>", "due_on": "2026-03-31"},
    "support_reply": {"ticket_number": "4711"},
}


def text_of(message: Any) -> str:
    return str(message.body)


def html_of(message: Any) -> str:
    return str(message.alternatives[0][0])


def written(recipient, template_id="welcome", **references):
    email = notify(recipient, template_id, **references)
    email.message_id = "<made-once@example.com>"
    return email


@pytest.mark.parametrize("template_id", sorted(TEMPLATES))
def test_every_template_has_a_subject_a_text_and_html(ada, template_id):
    message = rendered(written(ada, template_id, **REFERENCES[template_id]))

    subject = str(message.subject)
    assert subject == " ".join(subject.split()) != ""
    assert message.to == ["ada@example.com"]
    assert "Hello Ada," in text_of(message)
    assert "<p>Hello Ada,</p>" in html_of(message)
    assert message.alternatives[0][1] == "text/html"
    assert "{" not in subject + text_of(message) + html_of(message)


def test_the_headers_are_the_rows_and_say_that_no_person_wrote_it(ada):
    headers = rendered(written(ada)).message()

    assert headers["Message-ID"] == "<made-once@example.com>"
    assert headers["Auto-Submitted"] == "auto-generated"
    assert headers["To"] == "ada@example.com"


def test_only_html_is_escaped(ada):
    message = rendered(written(ada, "invoice_reminder", **REFERENCES["invoice_reminder"]))

    assert message.subject == "Reminder: invoice 2026-<17>"
    assert "invoice 2026-<17> is open. It is due on March 31, 2026." in text_of(message)
    assert "2026-&lt;17&gt;" in html_of(message)


def test_a_name_is_no_markup_and_no_header(ada):
    ada.first_name = "<b>Ada\nBcc: eve@example.com"
    message = rendered(written(ada))

    assert message.subject == "Welcome, <b>Ada Bcc: eve@example.com"
    assert "<b>Ada" not in html_of(message)


def test_an_address_has_no_name(db):
    message = rendered(written("bob@example.com"))

    assert message.to == ["bob@example.com"]
    assert "Hello," in text_of(message)
    assert message.subject == "Welcome"


def test_the_token_is_made_when_it_is_rendered_and_works(ada, client):
    email = written(ada, "password_reset")
    assert email.references == {}

    (url,) = re.findall(r"https://example\.com(/\S+)", text_of(rendered(email)))

    assert "Choose a new password" in client.get(url, follow=True).content.decode()
    assert "does not work" not in client.get(url, follow=True).content.decode()


def test_an_account_without_a_password_gets_no_link(ada):
    email = written(ada, "password_reset")
    ada.set_unusable_password()
    with pytest.raises(ContentRefused, match="cannot reset"):
        rendered(email)

    ada.set_password("another one")
    ada.is_active = False
    with pytest.raises(ContentRefused, match="cannot reset"):
        rendered(email)


def test_a_link_needs_a_site(ada, configure):
    configure(SITE_URL="")

    with pytest.raises(ContentRefused, match="SITE_URL"):
        rendered(written(ada, "password_reset"))
    assert "http" not in text_of(rendered(written(ada)))


def test_the_agent_is_read_when_it_is_rendered(ada, django_user_model):
    bob = django_user_model.objects.create_user("bob", first_name="Bob", last_name="Builder")
    email = written(ada, "support_reply", ticket_number="4711", agent_id=bob)

    assert "Bob Builder has replied" in text_of(rendered(email))
    bob.delete()
    assert "we have replied" in text_of(rendered(email))


def test_the_address_is_the_users_at_that_moment(ada):
    email = written(ada)
    ada.email = "countess@example.com"

    assert rendered(email).to == ["countess@example.com"]

    for address in ("", "nonsense", "ada@example.com\nBcc: eve@example.com"):
        ada.email = address
        with pytest.raises(RecipientRefused):
            rendered(email)


def test_a_recipient_who_is_gone_gets_no_mail(ada):
    email = written(ada)
    email.user = None

    with pytest.raises(RecipientRefused):
        rendered(email)


def test_a_template_that_is_gone_or_broken_is_permanent(ada, monkeypatch):
    email = written(ada)

    email.template_id = "gone"
    with pytest.raises(ContentRefused, match="there is no template 'gone'"):
        rendered(email)

    monkeypatch.setitem(TEMPLATES, "no_files", TEMPLATES["welcome"])
    email.template_id = "no_files"
    with pytest.raises(ContentRefused, match="no_files cannot be rendered: TemplateDoesNotExist"):
        rendered(email)


def test_a_reference_that_no_longer_fits_is_permanent(ada):
    email = written(ada, "invoice_reminder", **REFERENCES["invoice_reminder"])
    email.references = {"invoice_number": "1"}

    with pytest.raises(ContentRefused, match="invoice_reminder cannot be rendered: KeyError"):
        rendered(email)
