"""What the queue tells beside Django's three task signals. Sent with `send_robust`; the sender is the backend class.

Every signal carries `job_id`, `task_path`, `queue_name` and:

- `job_retry_scheduled`: `attempt`, `retry_in` (seconds), `exception_class`
- `job_dead`: `reason`, `exception_class`
- `lease_lost`: `lease_token`, `worker_id`
- `job_replayed`: `by` (a string)
"""

from django.dispatch import Signal

job_retry_scheduled = Signal()
job_dead = Signal()
lease_lost = Signal()
job_replayed = Signal()
