"""`make demo`, as a person meets it: a browser's requests, mail in files, Ctrl-C."""

import http.cookiejar
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.parse
import urllib.request
from contextlib import closing

import psutil
import pytest
from django.conf import settings

from tests.conftest import wait_until

pytestmark = pytest.mark.any_database


class Demo:
    """One run of the demo, in a session of its own as in a terminal."""

    def __init__(self, port, directory):
        self.url = f"http://127.0.0.1:{port}"
        self.var = directory / "var"
        self.output_path = directory / "output.txt"
        with open(self.output_path, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "config.demo"],
                cwd=settings.BASE_DIR,
                env=os.environ | {"PORT": str(port), "VAR_DIR": str(self.var), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started = {self.process.pid: psutil.Process(self.process.pid)}

    def output(self):
        return self.output_path.read_text()

    def processes(self):
        """Return all that it has started so far and that still lives."""
        for process in list(self.started.values()):
            if process.is_running():
                self.started |= {child.pid: child for child in process.children(recursive=True)}
        return [p for p in self.started.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def wait_ready(self):
        wait_until(lambda: "The demo is running." in self.output() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.output()
        self.processes()
        return self

    def press_ctrl_c(self):
        """Interrupt the foreground process group, and return the exit code and what is left running."""
        self.processes()
        os.killpg(self.process.pid, signal.SIGINT)
        code = self.process.wait(60)
        return code, self.processes()

    def mails(self):
        """Return the state of each e-mail by recipient, with the state and the attempts of its job."""
        with closing(sqlite3.connect(f"file:{self.var / 'db.sqlite3'}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT email.address, email.state, job.state, job.attempts"
                " FROM notifications_email email JOIN jobs_job job ON job.id = email.job_id"
            ).fetchall()
        return {address: tuple(rest) for address, *rest in rows}

    def outbox(self):
        return "".join(path.read_text() for path in (self.var / "outbox").glob("*.log"))


@pytest.fixture
def demo(tmp_path):
    """Start the demo on a port; what is left of it at the end is killed."""
    runs = []

    def start(port):
        runs.append(Demo(port, tmp_path))
        return runs[-1]

    yield start
    for run in runs:
        while processes := run.processes():
            for process in processes:
                process.kill()
            run.process.wait(5)


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sign_in(url):
    """Sign in to the admin as the text says, and return the page that a person sees then."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    form = opener.open(f"{url}/admin/", timeout=20).read().decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    assert token
    fields = {"csrfmiddlewaretoken": token[1], "username": "admin", "password": "admin", "next": "/admin/"}
    data = urllib.parse.urlencode(fields).encode()
    return opener.open(f"{url}/admin/login/", data, timeout=20).read().decode()


def test_the_demo_shows_a_retry_and_a_dead_letter_and_stops_with_ctrl_c(demo, free_port):
    run = demo(free_port).wait_ready()

    assert urllib.request.urlopen(f"{run.url}/", timeout=20).status == 200
    assert "Site administration" in sign_in(run.url)
    expected = {"flaky@example.com": ("sent", "succeeded", 2), "poison@example.com": ("failed", "dead", 3)}
    wait_until(lambda: expected.items() <= run.mails().items(), 60)
    assert "To: flaky@example.com" in run.outbox()
    assert "To: poison@example.com" not in run.outbox()
    # Its row is written before the log tells of it, which it does once.
    wait_until(lambda: "The demo refuses this one\n" in run.output().partition("state=FAILED")[2], 20)

    before = run.output()
    assert run.press_ctrl_c() == (0, [])
    parting = run.output().removeprefix(before)
    assert "Traceback" not in parting
    assert run.output().count("state=FAILED") == 1
    assert parting.rstrip().endswith("Everything is stopped.")


def test_a_second_demo_works_on_the_same_port_and_the_same_files(demo, free_port):
    demo(free_port).wait_ready().press_ctrl_c()

    run = demo(free_port).wait_ready()

    assert "Site administration" in sign_in(run.url)
    assert run.press_ctrl_c() == (0, [])


def test_a_taken_port_is_said_before_anything_starts(demo):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        run = demo(port)

        assert run.process.wait(30) == 1
    assert f"Port {port} is taken, nothing was started." in run.output()
    assert f"make demo PORT={port + 1}" in run.output()
    assert not run.var.exists()


def test_a_port_that_is_none_is_refused(demo):
    run = demo("http")

    assert run.process.wait(30) == 1
    assert "PORT is 'http', but a port is a number from 1 to 65535." in run.output()
