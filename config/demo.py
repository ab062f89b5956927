"""`make demo`: the web server, a worker and some e-mail on this machine, in the foreground until Ctrl-C."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django

BASE_DIR = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Longer than a worker's grace.
STOP_SECONDS = 40

TEXT = """
The demo is running.

  http://{host}:{port}/          sign up, and a welcome mail goes out through the queue
  http://{host}:{port}/admin/    sign in as admin with the password admin
                                  E-mails: one succeeded at its second attempt
                                  Dead letters: one is there within half a minute. Its page says why: the demo's mail
                                  server refuses this one always, so a replay only shows how a replay goes
  {outbox}    the mail that was sent

Ctrl-C stops everything.
"""


def main() -> int:
    port = chosen_port()
    if is_taken(port):
        sys.exit(f"Port {port} is taken, nothing was started. Free it, or choose another: make demo PORT={port + 1}")
    configure(port)

    from django.core.management import call_command

    print("Preparing the database ...", flush=True)
    call_command("migrate", verbosity=0)
    enqueue_mail(create_admin())
    return run(port)


def chosen_port() -> int:
    text = os.environ.get("PORT") or "8000"
    if not (text.isdecimal() and 0 < int(text) < 65536):
        sys.exit(f"PORT is {text!r}, but a port is a number from 1 to 65535.")
    return int(text)


def is_taken(port: int) -> bool:
    """Return whether the web server could not listen here."""
    with socket.socket() as probe:
        # As the web server does: connections of the last demo that still linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def configure(port: int) -> None:
    """Set up Django for the demo, whatever the environment and `.env` say for other runs."""
    var = Path(os.environ.setdefault("VAR_DIR", str(BASE_DIR / "var"))).absolute()
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DEBUG": "on",
        "HTTPS": "off",
        "SECRET_KEY": secrets.token_urlsafe(50),
        "ALLOWED_HOSTS": f"{HOST},localhost",
        "DATABASE_URL": f"sqlite:///{var / 'db.sqlite3'}",
        "EMAIL_URL": f"filemail:///{var / 'outbox'}",
        "EMAIL_BACKEND": "config.demo_mail.EmailBackend",
        "SITE_URL": f"http://{HOST}:{port}",
        "DEFAULT_FROM_EMAIL": "Demo <demo@example.com>",
    }
    django.setup()


def create_admin() -> Any:
    """Return the superuser that the text names. Raises: PermissionError where DEBUG is off."""
    from django.conf import settings
    from django.contrib.auth import get_user_model

    if not settings.DEBUG:
        raise PermissionError("a superuser with a known password is created with DEBUG=on only")
    users = get_user_model()._default_manager
    return users.filter(username="admin").first() or users.create_superuser("admin", "admin@example.com", "admin")


def enqueue_mail(admin: Any) -> None:
    """Enqueue a handful: two go out at once, one at its second attempt, one never."""
    from notifications import notify

    notify("ada@example.com", "welcome")
    notify(admin, "password_reset")
    notify("flaky@example.com", "invoice_reminder", invoice_number="2026-017", due_on="2026-12-31")
    notify("poison@example.com", "support_reply", ticket_number="4711")


def run(port: int) -> int:
    """Run the web server and the worker until a signal, or until one of them ends by itself."""
    stop = threading.Event()
    for number in SIGNALS:
        signal.signal(number, lambda *_: stop.set())

    with processes(port) as running:
        wait_for_web(port, running, stop)
        if not stop.is_set():
            print(TEXT.format(host=HOST, port=port, outbox=Path(os.environ["VAR_DIR"]) / "outbox"), flush=True)
        while not stop.wait(0.2) and not ended(running):
            pass
        failed = ended(running)
    if failed:
        print(f"\n{', '.join(failed)} ended by itself; the reason stands above.", flush=True)
        return 1
    print("\nEverything is stopped.", flush=True)
    return 0


@contextmanager
def processes(port: int) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Start both in sessions of their own: Ctrl-C reaches only the demo, which passes it on once."""
    commands = {
        "The web server": ["runserver", "--noreload", f"{HOST}:{port}"],
        "The worker": ["runworker"],
    }
    running = {
        name: subprocess.Popen([sys.executable, BASE_DIR / "manage.py", *command], start_new_session=True)
        for name, command in commands.items()
    }
    try:
        yield running
    finally:
        stop_all(list(running.values()))


def stop_all(processes: list[subprocess.Popen[bytes]]) -> None:
    """Stop them as an init system does, and kill what is still there when the worker's grace is over."""

    def terminate(*_: object) -> None:
        for process in processes:
            process.terminate()

    # A second Ctrl-C goes on to the worker, which then skips its grace.
    for number in SIGNALS:
        signal.signal(number, terminate)
    terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_web(port: int, running: dict[str, subprocess.Popen[bytes]], stop: threading.Event) -> None:
    while not stop.is_set() and not ended(running):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.1)


def ended(running: dict[str, subprocess.Popen[bytes]]) -> list[str]:
    return [name for name, process in running.items() if process.poll() is not None]


if __name__ == "__main__":
    sys.exit(main())
