"""The kinds of jobs that are fed, by the names of their tasks."""

STEADY = ("raw", "transactional", "recorded", "charge", "mail", "flaky", "araw")
MISBEHAVING = (
    *("exits", "segfaults", "allocates", "loops", "swallows"),
    *("leaves", "interrupts", "unprintable", "speechless"),
)
UNTIDY = ("leaks", "leaves_open", "closes")
LONG_SECONDS = 4.0  # that a `long` job takes
