"""Processes that use the queue as an application does: they make its tables and enqueue."""
