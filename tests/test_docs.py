"""Every public name, option, command and metric stands in the docs."""

import re
from argparse import ArgumentParser
from dataclasses import fields
from pathlib import Path

from django.core.management import get_commands, load_command_class
from django.dispatch import Signal

import jobs
from jobs import checks, conf, decorator, metrics, signals

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
NAMED = set(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", REFERENCE, flags=re.DOTALL)))

PROMISE = (
    "*Execution is at least once; at most one completion per lease is accepted; an effect in the jobs' "
    "database happens once when it commits with the job or with its idempotency record; an outside effect "
    "guarded by a record is repeated at most where the process died between the effect and its record, and "
    "there the task chooses between a retry and a person.*"
)


def flags_of(command: str) -> set[str]:
    parser = load_command_class(get_commands()[command], command).create_parser("manage.py", command)
    ours = parser._actions
    django_own = {"--help", "--version", "--verbosity", "--settings", "--pythonpath", "--traceback"}
    django_own |= {"--no-color", "--force-color", "--skip-checks"}
    return {flag for action in ours for flag in action.option_strings if flag.startswith("--")} - django_own


def subcommands_of(parser: ArgumentParser) -> set[str]:
    found = set()
    for action in parser._actions:
        for name, inner in (
            (getattr(action, "choices", None) or {}).items() if hasattr(action, "_name_parser_map") else ()
        ):
            found |= {name} | subcommands_of(inner)
    return found


def test_every_public_name_is_documented():
    assert set(jobs.__all__) <= NAMED


def test_every_task_option_is_documented():
    assert decorator.OWN_OPTIONS | decorator.PER_CALL <= NAMED


def test_every_backend_option_is_documented():
    assert {field.name for field in fields(conf.Options)} <= NAMED


def test_every_flag_of_the_worker_is_documented():
    assert flags_of("runworker") <= NAMED
    assert flags_of("jobs_worker") == flags_of("runworker")


def test_every_subcommand_is_documented():
    parser = load_command_class(get_commands()["jobs"], "jobs").create_parser("manage.py", "jobs")

    found = subcommands_of(parser)

    assert {"status", "dead", "replay"} <= found <= NAMED


def test_the_documented_metrics_are_the_ones_there_are():
    documented = set(re.findall(r"^\| `(jobs_\w+)` \|", REFERENCE, re.MULTILINE))

    assert documented == set(metrics.METRICS)


def test_every_signal_is_documented():
    assert {name for name, value in vars(signals).items() if isinstance(value, Signal)} <= NAMED


def test_every_system_check_is_documented():
    assert set(re.findall(r"jobs\.[EW]\d+", Path(checks.__file__).read_text())) <= NAMED


def test_the_promise_stands_in_the_readme_word_for_word():
    readme = " ".join((ROOT / "README.md").read_text().split())

    assert PROMISE in readme


def test_the_readme_links_to_pages_that_exist():
    links = re.findall(r"\]\(([\w/.-]+)\)", (ROOT / "README.md").read_text())

    assert links
    assert all((ROOT / link).exists() for link in links)
