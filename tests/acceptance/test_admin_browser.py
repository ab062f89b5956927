"""A person in front of the admin: log in, see why a job died, replay it."""

import pytest

from jobs.models import Job
from jobs.states import State
from tests.admin.rows import a_dead_letter


@pytest.mark.django_db(transaction=True)
def test_a_person_reads_why_a_job_died_and_replays_it(browser, live_server, admin_user):
    letter = a_dead_letter(message="card declined by the bank")
    problems: list[str] = []
    browser.on("pageerror", lambda error: problems.append(str(error)))

    browser.goto(f"{live_server.url}/admin/jobs/deadletter/")
    browser.fill("[name=username]", "admin")
    browser.fill("[name=password]", "password")
    browser.click("[type=submit]")
    first_line_of_the_list = browser.inner_text(".jobs-lead")
    browser.click(f"text=#{letter.pk}")
    page = browser.inner_text("#content")
    browser.click(".jobs-tools >> text=Replay")
    question = browser.inner_text("#content")
    state_while_asked = Job.objects.get().state
    browser.click("input[type=submit][value=Replay]")
    answer = browser.inner_text(".messagelist")

    assert "1 job died and waits for you" in first_line_of_the_list
    assert "card declined by the bank" in page
    assert "charge.py" in page
    assert "Replay 1 dead letter?" in question
    assert state_while_asked == State.DEAD
    assert "Replayed 1 dead letter." in answer
    assert Job.objects.get().state == State.READY
    assert "Replayed by admin" in browser.inner_text(".jobs-lead")
    assert problems == []


@pytest.mark.django_db(transaction=True)
def test_a_person_replays_all_that_match_with_a_few_clicks(browser, live_server, admin_user):
    for _ in range(3):
        a_dead_letter()

    browser.goto(f"{live_server.url}/admin/jobs/deadletter/")
    browser.fill("[name=username]", "admin")
    browser.fill("[name=password]", "password")
    browser.click("[type=submit]")
    # The script that selects all rows attaches itself once the page has loaded.
    browser.wait_for_load_state("load")
    browser.click("#action-toggle")
    browser.wait_for_selector("tr.selected")
    browser.select_option("select[name=action]", "replay")
    browser.click("button[name=index]")
    browser.click("input[type=submit][value=Replay]")

    assert "Replayed 3 dead letters." in browser.inner_text(".messagelist")
    assert "No dead letter waits for a decision." in browser.inner_text(".jobs-lead")
    assert {job.state for job in Job.objects.all()} == {State.READY}
