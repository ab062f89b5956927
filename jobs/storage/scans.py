"""Loose index scans: a few index probes for each name, whatever the backlog.

Plain SQL that PostgreSQL, SQLite and MySQL 8 share.
"""

# The states are literals because SQLite matches a partial index by the text of its condition. The first
# and the last entry of a queue in index order, not EXISTS: that would tempt PostgreSQL into reading the whole table
# whenever its statistics say that many jobs are ready.
READY_QUEUES = """
WITH RECURSIVE names(name) AS (
    SELECT min(queue_name) FROM jobs_job WHERE state = 'ready' AND NOT blocked
    UNION ALL
    SELECT (SELECT min(queue_name) FROM jobs_job WHERE state = 'ready' AND NOT blocked AND queue_name > names.name)
    FROM names WHERE names.name IS NOT NULL
)
SELECT names.name,
       (SELECT NOT suspect FROM jobs_job WHERE state = 'ready' AND NOT blocked AND queue_name = names.name
        ORDER BY queue_name, suspect, group_key, priority DESC, ready_at, id LIMIT 1),
       (SELECT suspect FROM jobs_job WHERE state = 'ready' AND NOT blocked AND queue_name = names.name
        ORDER BY queue_name DESC, suspect DESC, group_key DESC, priority, ready_at DESC, id DESC LIMIT 1),
       COALESCE(jobs_queue.paused, FALSE),
       jobs_queue.id IS NULL,
       jobs_queue.probe_at IS NOT NULL,
       (SELECT group_key <> '' FROM jobs_job
        WHERE state = 'ready' AND NOT blocked AND queue_name = names.name AND suspect = FALSE
        ORDER BY queue_name DESC, suspect DESC, group_key DESC, priority, ready_at DESC, id DESC LIMIT 1)
FROM names LEFT JOIN jobs_queue ON jobs_queue.name = names.name
WHERE names.name IS NOT NULL
"""

# As above: from one group of a queue to the next through the index.
READY_GROUPS = """
WITH RECURSIVE names(name, n) AS (
    SELECT (SELECT min(group_key) FROM jobs_job WHERE state = 'ready' AND NOT blocked
            AND queue_name = %(queue_name)s AND suspect = %(suspects)s AND group_key {first} %(after)s), 1
    UNION ALL
    SELECT (SELECT min(group_key) FROM jobs_job WHERE state = 'ready' AND NOT blocked
            AND queue_name = %(queue_name)s AND suspect = %(suspects)s AND group_key > names.name), n + 1
    FROM names WHERE names.name IS NOT NULL AND n < %(limit)s
)
SELECT name FROM names WHERE name IS NOT NULL
"""

# And from one key to the next.
BLOCKED_KEYS = """
WITH RECURSIVE keys(name, n) AS (
    SELECT min(concurrency_key), 1 FROM jobs_job WHERE state = 'ready' AND blocked AND concurrency_key > %s
    UNION ALL
    SELECT (SELECT min(concurrency_key) FROM jobs_job
            WHERE state = 'ready' AND blocked AND concurrency_key > keys.name), n + 1
    FROM keys WHERE keys.name IS NOT NULL AND n < %s
)
SELECT name FROM keys WHERE name IS NOT NULL
"""
