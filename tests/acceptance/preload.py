"""Imported by the fork server alone: loads the project as `manage.py` does."""

import importlib

import django

django.setup()
importlib.import_module("jobs.management.commands.runworker")
