"""Everything that `make test` checks: linter, types, Django's checks, and every test on SQLite and on PostgreSQL.

`python -m tests.run [PYTEST ARGUMENTS]`; TEST_DATABASE_URL names a PostgreSQL to use instead of one started here.
All steps run, whatever fails, beside the tests; the last line counts the tests of both databases. Tests with real
workers wait more than they compute: unless arguments select tests, they run beside the others.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.postgresql import temporary_postgresql

PYTHON = [sys.executable]
MANAGE = [sys.executable, "manage.py"]

STEPS = {
    "ruff check": [*PYTHON, "-m", "ruff", "check", "."],
    "ruff format": [*PYTHON, "-m", "ruff", "format", "--check", "."],
    "mypy": [*PYTHON, "-m", "mypy"],
    "check": [*MANAGE, "check", "--fail-level", "WARNING"],
    "makemigrations": [*MANAGE, "makemigrations", "--check", "--dry-run"],
}

WORKERS = "tests/acceptance"
# A run that takes longer hangs.
TESTS_MAX_SECONDS = 900


class Tests:
    """One pytest process on one database, its output and its report."""

    def __init__(self, name: str, database_url: str, directory: Path, arguments: list[str]) -> None:
        self.name = name
        self.report_path = directory / f"{name}.xml"
        self.output_path = directory / f"{name}.txt"
        command = [*PYTHON, "-m", "pytest", f"--junit-xml={self.report_path}", *arguments]
        # Two runs at once would fight over the cache of the last failures.
        command += ["-p", "no:cacheprovider"]
        with open(self.output_path, "wb") as output:
            self.process = subprocess.Popen(
                command, env=os.environ | {"DATABASE_URL": database_url}, stdout=output, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def finish(self) -> None:
        """Copy the output while it grows, until the process has ended."""
        print(f"\n== pytest on {self.name}", flush=True)
        deadline = time.monotonic() + TESTS_MAX_SECONDS
        with open(self.output_path, errors="replace") as output:
            while self.process.poll() is None:
                print(output.read(), end="", flush=True)
                if time.monotonic() > deadline:
                    print(f"\nstopped after {TESTS_MAX_SECONDS} seconds")
                    self.stop()
                time.sleep(0.2)
            print(output.read(), end="", flush=True)

    def stop(self) -> None:
        """Interrupt the run, so that its fixtures still stop what they started; kill it if that does not help."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def counts(self) -> Counter[str]:
        """Return how many passed, failed and were skipped; a run that ended without a report is one failure."""
        counts: Counter[str] = Counter()
        if self.report_path.exists():
            for suite in ElementTree.parse(self.report_path).iter("testsuite"):
                number = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
                counts["failed"] += number["failures"] + number["errors"]
                counts["skipped"] += number["skipped"]
                counts["passed"] += number["tests"] - number["failures"] - number["errors"] - number["skipped"]
        if self.process.returncode and not counts["failed"]:
            counts["failed"] += 1
        return counts


def shares(database: str, url: str, arguments: list[str]) -> list[tuple[str, str, list[str]]]:
    """Return the runs of one database: what each is called, its database, and what tells pytest its tests."""
    only = ["-m", "not any_database"] if database == "PostgreSQL" else []
    if arguments:
        return [(database, url, [*only, *arguments])]
    address, mark, options = url.partition("?")
    return [
        (f"{database} with real workers", f"{address}_workers{mark}{options}", [*only, WORKERS]),
        (database, url, [*only, f"--ignore={WORKERS}"]),
    ]


def run_steps() -> dict[str, tuple[float, int, str]]:
    """Run one step after another; return of each how many seconds it took, its exit code, and what it said."""
    found = {}
    for name, command in STEPS.items():
        started = time.monotonic()
        step = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        found[name] = time.monotonic() - started, step.returncode, step.stdout
    return found


def failed_steps(found: dict[str, tuple[float, int, str]]) -> list[str]:
    """Show how each step went, and what those that failed have said; return their names."""
    print()
    for name, (seconds, code, said) in found.items():
        print(f"{name}: {'FAILED' if code else 'ok'} ({seconds:.1f} s)")
        if code:
            print(said, flush=True)
    return [name for name, (_, code, _) in found.items() if code]


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell's background jobs ignore it, and so would the pytest processes, which are stopped with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    counts: Counter[str] = Counter()
    failed = []
    with tempfile.TemporaryDirectory(prefix="jobs-tests-") as name:
        directory = Path(name)
        os.environ["DATABASE_URL"] = f"sqlite:///{directory / 'db.sqlite3'}"
        with ExitStack() as stack:
            steps = stack.enter_context(ThreadPoolExecutor(1)).submit(run_steps)
            urls = {"SQLite": os.environ["DATABASE_URL"]}
            try:
                urls["PostgreSQL"] = os.environ.get("TEST_DATABASE_URL") or stack.enter_context(temporary_postgresql())
            except Exception as error:
                failed.append(f"start of PostgreSQL ({type(error).__name__}: {error})")
            runs = [
                stack.enter_context(Tests(name, url, directory, selected))
                for database, database_url in urls.items()
                for name, url, selected in shares(database, database_url, arguments)
            ]
            for run in runs:
                run.finish()
            failed += failed_steps(steps.result())
        for run in runs:
            counts += run.counts()
            if run.process.returncode:
                failed.append(f"pytest on {run.name}")

    print()
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
