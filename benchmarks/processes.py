"""Runs what is measured in a process of its own, which prints one line of JSON: a client, or a limit."""

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LONGEST_SECONDS = 1800

# Of an interval: enough that no other clock falls in step, and "every 50 ms" stays true.
JITTER = 0.25


def environment(url: str) -> dict[str, str]:
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
        "DATABASE_URL": url,
        "LOG_LEVEL": "INFO",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
    }


def start(module: str, url: str, *arguments: Any) -> "subprocess.Popen[bytes]":
    """Start `python -m MODULE ARGUMENTS` against a database."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment(url), stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def reported_by(module: str, url: str, *arguments: Any) -> dict[str, float]:
    """Run it to its end and return what it reports."""
    with start(module, url, *arguments) as process:
        return report_of(process)


def report_of(process: "subprocess.Popen[bytes]") -> dict[str, float]:
    """Wait for the end of what was started and return what it reports."""
    try:
        output, _ = process.communicate(timeout=LONGEST_SECONDS)
    except BaseException:
        process.kill()
        raise
    if process.returncode:
        raise RuntimeError(f"{process.args!r} exited with {process.returncode}")
    return json.loads(output.splitlines()[-1])  # type: ignore[no-any-return]


# Inside such a process


def report(**figures: float) -> None:
    print(json.dumps(figures), flush=True)


def timed(work: Callable[[], int]) -> None:
    """Report how long a piece of work took that says how many jobs it did."""
    cpu, start = time.process_time(), time.monotonic()
    jobs = work()
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report(jobs=jobs, seconds=seconds, cpu_seconds=cpu, peak=peak)


def paced(act: Callable[[int], Any], count: int, rate: float) -> None:
    """Act `count` times, so many a second, at moments that no other clock's ticks can fall in with."""
    start = time.monotonic()
    for n in range(count):
        time.sleep(max(0.0, start + (n + JITTER * random.random()) / rate - time.monotonic()))
        act(n)
