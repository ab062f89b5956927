"""Every package of the apps is in the wheel: their list in pyproject.toml is written by hand."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_wheel_holds_every_package_there_is():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for app in ("jobs", "notifications")
        for path in (ROOT / app).rglob("__init__.py")
    }

    assert found
    assert found <= listed
