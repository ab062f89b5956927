"""Fixtures for tests with real worker processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.ledger import Ledger
from tests.acceptance.worker_tree import WorkerTree


@pytest.fixture
def worker(transactional_db: None, tmp_path: Path) -> Iterator[Callable[..., WorkerTree]]:
    """Start workers on the test database: `worker("--processes", "2", EMAIL_URL=smtp_server.url).wait_ready()`.

    Arguments go to `runworker`, keywords into its environment. What still runs when the test ends is killed. A worker
    is forked from a process that has loaded the project, unless it is `typed` as a command or has an environment of its
    own.
    """
    # transactional_db: rows that the test writes are committed, and nobody flushes them while workers still run.
    trees: list[WorkerTree] = []

    def start(*args: str, typed: bool = False, **environ: str) -> WorkerTree:
        tree = WorkerTree(args, environ, tmp_path / f"worker-{len(trees)}.log", typed)
        trees.append(tree)
        return tree

    yield start
    for tree in trees:
        tree.kill_tree()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Where tasks of this test write what they did; `str(ledger)` goes into their arguments."""
    return Ledger(tmp_path / "ledger")
