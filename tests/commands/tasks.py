"""A task for the command line to enqueue."""

from jobs import task


@task(queue_name="default")
def greet(name: str, *, times: int = 1) -> str:
    return f"hello {name}" * times
