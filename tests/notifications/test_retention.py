"""An e-mail outlives the job that sent it."""

import pytest

from jobs.storage import storage
from jobs.testing import run_jobs
from notifications import notify, tracking
from tests.notifications.conftest import job_of, reloaded


@pytest.mark.django_db(transaction=True)
def test_pruning_the_job_keeps_the_email(ada, mailoutbox):
    email = notify(ada, "welcome")
    run_jobs()

    assert storage().delete_jobs([job_of(email).pk]) == 1

    assert reloaded(email).job is None
    assert tracking.current_state(reloaded(email)) == "sent"
