"""The sign-up page: a new user and the welcome mail in one transaction, and a page that says where the mail is."""

import uuid
from typing import Any

from django import forms
from django.contrib.auth import get_user_model
from django.contrib.auth.forms import UserCreationForm
from django.db import router, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django.views.generic import FormView

from . import tracking
from .exceptions import Refused
from .models import Email
from .outbox import notify

User: Any = get_user_model()
ADDRESS_FIELD: str = User.get_email_field_name()


class SignupForm(UserCreationForm):
    class Meta:
        model = User
        fields = tuple(dict.fromkeys([User.USERNAME_FIELD, ADDRESS_FIELD]))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields[ADDRESS_FIELD].required = True
        self.fields[ADDRESS_FIELD].widget.attrs["autocomplete"] = "email"


class SignupView(FormView):
    template_name = "notifications/signup.html"
    form_class = SignupForm

    def form_valid(self, form: SignupForm) -> HttpResponse:
        try:
            with transaction.atomic(using=router.db_for_write(Email)):
                email = notify(form.save(), "welcome")
        except Refused as refused:
            form.add_error(ADDRESS_FIELD, forms.ValidationError(refused.message))
            return self.form_invalid(form)
        return redirect("notifications:signed_up", delivery_id=email.delivery_id)


# What each state means to the person who waits for the mail.
SAYINGS = {
    Email.State.QUEUED: _("Your welcome mail is waiting to be sent."),
    Email.State.SENDING: _("Your welcome mail is being sent right now."),
    Email.State.SENT: _("Your welcome mail is sent. Look into your mailbox."),
    Email.State.DEFERRED: _("The mail server could not take your welcome mail. We try again soon."),
    Email.State.FAILED: _("Your welcome mail could not be delivered. Is the address right?"),
    Email.State.SUPPRESSED: _("This address gets no mail from us: one came back before."),
    Email.State.DELIVERED: _("Your welcome mail has arrived. Look into your mailbox."),
    Email.State.BOUNCED: _("Your welcome mail came back. Is the address right?"),
    Email.State.COMPLAINED: _("Your welcome mail has arrived, and was called spam."),
    Email.State.UNKNOWN: _("Your welcome mail was handed over, but nobody confirmed it. A person looks into it."),
}


@require_safe
@never_cache
def signed_up(request: HttpRequest, delivery_id: uuid.UUID) -> HttpResponse:
    """Show the state of a welcome mail to whoever has its link; nothing else can be seen of it."""
    email = Email.objects.select_related("job").filter(pk=delivery_id, template_id="welcome").first()
    if email is None:
        raise Http404
    state = tracking.current_state(email)
    context = {"state": state, "saying": SAYINGS[state], "attempts": email.attempts}
    return render(request, "notifications/signed_up.html", context)
