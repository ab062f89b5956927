"""A virtual environment for each peer, `var/peers/NAME`, made when it is first needed or its requirements change."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .systems import System

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).parent / "requirements"
VERSION = "import sys; print(*sys.version_info[:2])"
# The newest that all peers are known to run on.
NEWEST = (3, 13)


class Unavailable(Exception):
    """Why a system cannot be measured here."""


def environment(system: System) -> str:
    """Return the Python of a system's environment. Raises: Unavailable."""
    if system.is_ours:
        return sys.executable
    directory = ROOT / "var" / "peers" / system.name
    python, stamp = directory / "bin" / "python", directory / "requirements.stamp"
    base, requirements = interpreter(system), REQUIREMENTS / f"{system.name}.txt"
    wanted = hashlib.sha256(requirements.read_bytes() + base.encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        install(base, directory, requirements)
        stamp.write_text(wanted)
    return str(python)


def install(base: str, directory: Path, requirements: Path) -> None:
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    for command in ([base, "-m", "venv", "--clear", str(directory)], [*pip, "-r", str(requirements)]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise Unavailable(f"{requirements.stem} could not be installed:\n{done.stdout}")


def interpreter(system: System) -> str:
    """Return the Python of this process, or the newest that is found when the system needs a newer one."""
    for candidate in candidates():
        version = version_of(candidate)
        if version and system.needs_python <= version <= max(NEWEST, sys.version_info[:2]):
            return candidate
    raise Unavailable(f"{system.name} needs Python {dotted(system.needs_python)}, and none was found")


def candidates() -> Iterator[str]:
    yield sys.executable
    names = [dotted((3, minor)) for minor in range(NEWEST[1], 10, -1)]
    yield from ("python" + name for name in names)
    with suppress(OSError):
        root = subprocess.run(["pyenv", "root"], stdout=subprocess.PIPE, text=True).stdout.strip()
        for name in names:
            yield from map(str, sorted(Path(root).glob(f"versions/{name}*/bin/python")))


def version_of(python: str) -> tuple[int, ...] | None:
    """Return the version of an interpreter that really runs: a shim may be there for a version that is not."""
    with suppress(OSError):
        done = subprocess.run([python, "-c", VERSION], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return tuple(map(int, done.stdout.split())) or None
    return None


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def pinned(system: System) -> str:
    """Return the version of a peer, which its requirements name first."""
    for line in (REQUIREMENTS / f"{system.name}.txt").read_text().splitlines():
        if line.startswith(f"{system.name}=="):
            return line.partition("==")[2]
    raise LookupError(system.name)


def variables(url: str, **more: str) -> dict[str, str]:
    """Return the environment variables of a driver."""
    return os.environ | {"DATABASE_URL": url} | more
