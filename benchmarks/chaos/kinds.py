"""The kinds of jobs that are fed, by the names of their tasks."""

STEADY = ("raw", "transactional", "recorded", "charge", "mail", "flaky", "araw")
MISBEHAVING = (
    *("exits", "segfaults", "allocates", "loops", "swallows", "leaks", "leaves_open", "closes"),
    *("leaves", "interrupts", "unprintable", "speechless"),
)
LONG_SECONDS = 4.0  # that a `long` job takes
