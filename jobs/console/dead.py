"""`jobs dead list|show|replay|delete`: the dead-letter queue from a shell. Ids are those of dead letters."""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from django.core.management.base import CommandError
from django.db.models import QuerySet

from .. import lifecycle, stats
from ..models import Attempt, DeadLetter
from ..secrets import redacted
from ..states import Reason
from .printer import Printer, add_djangos_own, add_json, operator, positive

HELP = "dead letters: list, show, replay or delete them"
COLUMNS = ("id", "job_id", "task_path", "reason", "exception_class", "error", "attempts", "died_at")


def arguments(parser: ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (add, run_verb, text) in VERBS.items():
        own = verbs.add_parser(name, help=text, description=text)
        add(own)
        own.set_defaults(run=run_verb)
        add_json(own)
        add_djangos_own(own)


def run(given: dict[str, Any], printer: Printer) -> None:
    """Never reached: each verb brings its own."""
    raise NotImplementedError


# list


def list_arguments(parser: ArgumentParser) -> None:
    add_filters(parser)
    parser.add_argument("--replayed", action="store_true", help="those that were replayed instead of those that wait")
    parser.add_argument("--limit", type=positive, default=20, metavar="N", help="at most so many (default 20)")


def list_letters(given: dict[str, Any], printer: Printer) -> None:
    letters = filtered(DeadLetter.objects.filter(replayed_at__isnull=not given["replayed"]), given)
    newest = letters.select_related("job", "group").order_by("-died_at", "-pk")[: given["limit"]]
    printer.table([row(letter) for letter in newest], COLUMNS, "No dead letter matches.")


def row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.pk,
        "job_id": letter.job_id,
        "task_path": letter.group.task_path,
        "reason": letter.reason,
        "exception_class": letter.exception_class,
        "error": letter.message.partition("\n")[0][:80],
        "attempts": letter.job.attempts,
        "died_at": letter.died_at,
        "replayed_at": letter.replayed_at,
    }


# show


def show_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("id", type=positive, metavar="ID", help="a dead letter's number")


def show_letter(given: dict[str, Any], printer: Printer) -> None:
    letter = DeadLetter.objects.select_related("job", "group").filter(pk=given["id"]).first()
    if letter is None:
        raise CommandError(
            f"There is no dead letter {given['id']}. `jobs dead list` names them; jobs have other numbers."
        )
    attempts = Attempt.objects.filter(job=letter.job_id, finished_at__lte=letter.died_at).exclude(traceback="")
    last = attempts.order_by("-pk").first()
    values = row(letter) | {
        "message": letter.message,
        "record_key": letter.record_key,
        "replayed_by": letter.replayed_by,
        "args": redacted(letter.job.args),
        "kwargs": redacted(letter.job.kwargs),
        "job_state": letter.job.state,
    }
    traceback = last.traceback if last else ""
    if printer.as_json:
        printer.json(values | {"traceback": traceback})
        return
    printer.fields({name: value for name, value in values.items() if name != "error" and value not in (None, "")})
    if traceback:
        printer.line(f"\n{traceback.rstrip()}")


# replay and delete


def replay_arguments(parser: ArgumentParser) -> None:
    chosen_arguments(parser)
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument(
        "--happened",
        action="store_true",
        help="uncertain letters: the effect happened, the job succeeds without running",
    )
    answers.add_argument(
        "--not-happened", action="store_true", help="uncertain letters: it did not happen, the job runs again"
    )


def replay_letters(given: dict[str, Any], printer: Printer) -> None:
    happened = True if given["happened"] else False if given["not_happened"] else None
    if given["all"] and happened is not None:
        raise CommandError("--happened and --not-happened answer for the letters that you name, never for --all.")
    act = partial(lifecycle.replay, by=operator(), happened=happened)
    printer.report(for_chosen(given, act), verb="Replayed", what="dead letter")


def delete_letters(given: dict[str, Any], printer: Printer) -> None:
    act = partial(lifecycle.delete, by=operator())
    printer.report(for_chosen(given, act), verb="Deleted", what="dead letter")


def chosen_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", type=positive, metavar="ID", help="a dead letter's number")
    parser.add_argument("--all", action="store_true", help="every letter that waits, narrowed by --task and --reason")
    add_filters(parser)


def add_filters(parser: ArgumentParser) -> None:
    parser.add_argument("--task", metavar="PATH", help="dotted path of a task")
    parser.add_argument("--reason", choices=Reason.values)


def filtered(letters: QuerySet[DeadLetter], given: dict[str, Any]) -> QuerySet[DeadLetter]:
    if given["task"]:
        letters = letters.filter(group__task_path=given["task"])
    return letters.filter(reason=given["reason"]) if given["reason"] else letters


def for_chosen(given: dict[str, Any], act: Callable[[Sequence[DeadLetter]], lifecycle.Report]) -> lifecycle.Report:
    """Act in chunks on the letters that were named or, with --all, on those that wait now."""
    ids = dict.fromkeys(given["ids"])
    if bool(ids) == given["all"]:
        raise CommandError("Name dead letters by their numbers, or say --all; one of the two.")
    if ids and (given["task"] or given["reason"]):
        raise CommandError("--task and --reason narrow --all; named letters need neither.")
    letters = DeadLetter.objects.filter(pk__in=ids) if ids else waiting(given)
    total = lifecycle.Report()
    for chunk in stats.chunks(letters):
        report = act(chunk)
        total.done += report.done
        total.skipped += report.skipped
    seen = {*total.done, *(pk for pk, _why in total.skipped)}
    total.skipped += [(pk, "there is no such dead letter") for pk in ids if pk not in seen]
    return total


def waiting(given: dict[str, Any]) -> QuerySet[DeadLetter]:
    # Letters that arrive meanwhile, of jobs that were replayed and died again, are not part of what was asked.
    newest = DeadLetter.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    return filtered(DeadLetter.objects.filter(replayed_at__isnull=True, pk__lte=newest), given)


VERBS = {
    "list": (list_arguments, list_letters, "dead letters that wait for a decision, newest first"),
    "show": (show_arguments, show_letter, "one dead letter with its traceback and payload"),
    "replay": (replay_arguments, replay_letters, "make dead jobs ready again"),
    "delete": (chosen_arguments, delete_letters, "delete dead letters with their dead jobs and attempts"),
}
