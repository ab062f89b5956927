"""System checks: the NOTIFICATIONS setting is right, and every template of the catalogue is there."""

from typing import Any

from django.conf import settings
from django.core import checks
from django.template import TemplateDoesNotExist, TemplateSyntaxError
from django.template.loader import get_template

from . import conf
from .catalogue import PARTS, TEMPLATES


def register() -> None:
    checks.register(check_settings)
    checks.register(check_templates, checks.Tags.templates)


def check_settings(**kwargs: Any) -> list[checks.CheckMessage]:
    problems = conf.problems_of(getattr(settings, "NOTIFICATIONS", {}))
    return [checks.Error(problem, id="notifications.E001") for problem in problems]


def check_templates(**kwargs: Any) -> list[checks.CheckMessage]:
    found: list[checks.CheckMessage] = []
    for name in (f"notifications/{template_id}/{part}" for template_id in TEMPLATES for part in PARTS):
        try:
            get_template(name)
        except (TemplateDoesNotExist, TemplateSyntaxError) as error:
            found.append(checks.Error(f"The e-mail template {name} cannot be used: {error}", id="notifications.E002"))
    return found
