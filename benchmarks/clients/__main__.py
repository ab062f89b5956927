"""`python -m benchmarks.clients NAME ARGUMENTS`: set up Django, do it, report."""

import sys

import django


def main(name: str, *arguments: str) -> None:
    django.setup()
    from .enqueuing import CLIENTS

    CLIENTS[name](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
