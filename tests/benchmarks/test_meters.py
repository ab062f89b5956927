"""What is read off the server's log."""

import pytest

from benchmarks.meters import count_statements

pytestmark = pytest.mark.any_database

LOG = """\
2026-01-31 12:00:00.000 UTC [71] bench/[unknown] LOG:  statement: SELECT 1
2026-01-31 12:00:00.000 UTC [71] bench/[unknown] LOG:  statement: 
\tUPDATE jobs_job
\tSET state = 'ready'
2026-01-31 12:00:00.000 UTC [71] bench/worker LOG:  execute _pg3_0: SELECT $1
2026-01-31 12:00:00.000 UTC [71] bench/worker DETAIL:  parameters: $1 = 'LOG:  statement: no'
2026-01-31 12:00:00.000 UTC [72] bench/benchmarks LOG:  statement: SELECT 'the watcher'
2026-01-31 12:00:00.000 UTC [73] other/[unknown] LOG:  statement: SELECT 2
2026-01-31 12:00:00.000 UTC [74] / LOG:  checkpoint starting: time
"""  # noqa: W291


def test_statements_of_the_watcher_and_of_other_databases_are_not_the_queue_s():
    assert count_statements(LOG, "bench") == 3
    assert count_statements(LOG, "other") == 1
    assert count_statements(LOG, "nobody") == 0
