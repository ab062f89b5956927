"""Tasks whose payloads are validated, in each of the ways there are."""

from django import forms
from django.core.exceptions import ValidationError
from pydantic import BaseModel

from jobs import task


def at_least_one(to, days=1):
    if not to:
        raise ValueError("to must name at least one address")
    if days > 365:
        raise ValidationError({"days": ["that is more than a year"]})
    return days >= 0


class Reminder(BaseModel):
    to: list[str]
    days: int = 1


class ReminderForm(forms.Form):
    to = forms.EmailField()
    days = forms.IntegerField(min_value=0)

    def clean(self):
        if self.cleaned_data.get("days") == 13:
            raise ValidationError("not on an unlucky day")


@task(validate=at_least_one)
def checked(to, days=1):
    return days


@task(validate=Reminder)
def modelled(to, days=1):
    return days


@task(validate=ReminderForm)
def formed(to, days=1):
    return days
