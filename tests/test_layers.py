"""The directory listing is the architecture: imports point down, or sideways within a layer, never up."""

import ast
from pathlib import Path

import pytest

JOBS = Path(__file__).resolve().parent.parent / "jobs"

LAYERS = [
    {
        "compat",
        "states",
        "outcomes",
        "exceptions",
        "retries",
        "payload",
        "leases",
        "fingerprints",
        "conf",
        "signals",
        "secrets",
        "validation",
        "annotations",
    }
    | {"decorator", "logs", "timing", "breakers"},
    {"models"},
    {"storage"},
    {"enqueue", "duplicates", "concurrency", "verdicts", "lifecycle", "idempotency", "runs", "wake", "registry"}
    | {"stats", "tally", "schedules", "limits"},
    {"backend", "worker"},
    {"admin", "management", "console", "views", "urls", "metrics", "health", "checks", "testing", "apps"}
    | {"webhooks", "middleware"}
    | {"pytest_plugin"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}

# The framework asks the backend for its checks by calling the backend; it looks them up when called.
CALLED_BACK = {("backend", "checks")}


def parts() -> list[str]:
    names = {path.name for path in JOBS.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    names |= {path.stem for path in JOBS.glob("*.py") if path.stem != "__init__"}
    return sorted(names - {"migrations"})


def imported(path: Path) -> set[str]:
    """Return the parts of `jobs` that a file imports, wherever in the file it does."""
    package = ("jobs", *path.relative_to(JOBS).with_suffix("").parts)[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            full = [*start, *(node.module.split(".") if node.module else [])]
            names = [[*full, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "jobs" and len(name) > 1}
    return found & set(parts())


def files_of(part: str) -> list[Path]:
    directory = JOBS / part
    return sorted(directory.rglob("*.py")) if directory.is_dir() else [JOBS / f"{part}.py"]


def test_every_part_of_the_app_stands_in_a_layer():
    assert set(parts()) == set(LAYER)


@pytest.mark.parametrize("part", parts())
def test_imports_never_point_up(part):
    reached = {name for path in files_of(part) for name in imported(path)} - {part}

    upward = {name for name in reached if LAYER[name] > LAYER[part] and (part, name) not in CALLED_BACK}

    assert not upward, f"{part} imports {sorted(upward)} from a layer above"


def test_only_compat_imports_a_tasks_framework():
    guilty = {
        path.relative_to(JOBS).as_posix()
        for path in JOBS.rglob("*.py")
        if "import django_tasks" in (text := path.read_text())
        or "from django_tasks" in text
        or "from django.tasks" in text
        or "import django.tasks" in text
    }

    assert guilty <= {"compat.py"}
