"""The limits: the queue's work as bare SQL over one connection of the driver, written by hand, with no framework."""

BATCH = 500  # jobs in one claim, and in one write of outcomes
WORKER = "benchmark-limit-0"
LONGEST_DRAIN = 10**9
