"""One tiny run from the command line to the table."""

import json
import os
import subprocess
import sys

import pytest
from django.conf import settings

SMALL = ["--scale", "0.001", "--runs", "1"]


def run(vendor: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environ = dict(os.environ)
    if vendor == "postgresql":
        # It makes databases of its own there.
        environ["BENCH_DATABASE_URL"] = environ["DATABASE_URL"]
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--db", vendor, *arguments],
        cwd=settings.BASE_DIR,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_run_measures_both_sides_of_each_pair(vendor):
    done = run(vendor, "--case", "drain.noop.1x1", "enqueue.one", *SMALL, "--json", "-")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["case"] for row in found["rows"]] == ["enqueue.one", "drain.noop.1x1"]
    for row in found["rows"]:
        assert row["database"] == vendor
        assert row["median"] > 0
        assert len(row["limits"]) == len(row["pair_ratios"]) == 1


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--runs", "0"], "a whole number from 1"),
        (["--scale", "nan"], "a number above 0"),
        (["--json", "/nowhere/at/all.json"], "cannot be written"),
        (["--svg", "curve.svg", "--case", "enqueue.one"], "--case growth"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_before_anything_is_measured(given, why):
    done = run("sqlite", *given)

    assert done.returncode == 2
    assert why in done.stderr


@pytest.mark.any_database
def test_an_unknown_case_is_no_run():
    done = run("sqlite", "--case", "drain.noop.1x1", "drain.nothing")

    assert done.returncode == 2
    assert "'drain.nothing'" in done.stderr
    assert "--list" in done.stderr
