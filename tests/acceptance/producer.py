"""A process that enqueues: `python -m tests.acceptance.producer LEDGER JOBS OPTION=KEY` says how many jobs it added."""

import os
import sys

import django


def main(ledger: str, jobs: str, option: str) -> None:
    django.setup()
    from tests.acceptance import tasks

    name, _, key = option.partition("=")
    keyed = tasks.pass_through.using(**{name: key})
    results = [keyed.enqueue(ledger=ledger, name=f"{os.getpid()}-{n}") for n in range(int(jobs))]
    print(sum(not getattr(result, "is_duplicate", False) for result in results))


if __name__ == "__main__":
    main(*sys.argv[1:])
