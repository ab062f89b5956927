"""PgQueuer, without Django: asyncio, each finished job deleted and logged."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import uvloop
from pgqueuer import AsyncpgDriver, Job, PgQueuer, Queries, run

from .protocol import SLEEP_SECONDS, Driver, main, stamp

URL = os.environ["DATABASE_URL"]
# No-op jobs/s, 80,000 of them, two runs of each:
#
#                               1 process            2 processes
#   one connection, batch 250   16,500  15,100       25,900  27,400
#   one connection, batch 500   20,800  20,000       32,100  29,000
#   a pool,         batch 250   21,800  20,000       29,600  26,700
#   a pool,         batch 500   22,000  23,400       26,700  30,200
#   psycopg,        batch 250   11,200               14,400              (30,000 jobs)
#
# So: batches of 500, a pool for one process, a connection each for two. Concurrency has no limit: one of 200, which
# allows batches of 100 at most, takes jobs that wait 10 ms from 14,400 down to 9,300.
BATCH_SIZE = 500
# Connections on which jobs write rows, for one process: 1: 1,800 jobs/s; 4: 3,800; 8: 3,900; 16: 4,300.
ROW_CONNECTIONS = 16
TABLE = "CREATE TABLE effects_effect (id bigserial PRIMARY KEY, number integer NOT NULL)"


class PgQueuerDriver(Driver):
    """The producer keeps one connection. Its loop runs only while something is enqueued."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.runner.run(coroutine)

    async def queries(self) -> Queries:
        if not hasattr(self, "connection"):
            self.connection = await asyncpg.connect(URL)
            self.connected = Queries(AsyncpgDriver(self.connection))
        return self.connected

    def setup(self) -> None:
        self.run(self.create_tables())

    async def create_tables(self) -> None:
        queries = await self.queries()
        await queries.install()
        await queries.optimize_autovacuum()
        await self.connection.execute(TABLE)

    def fill(self, task: str, jobs: int) -> None:
        self.run(self.add_many(task, jobs))

    async def add_many(self, task: str, jobs: int) -> None:
        queries = await self.queries()
        await queries.enqueue([task] * jobs, [str(number).encode() for number in range(jobs)], [0] * jobs)

    def enqueue_each(self, jobs: int) -> None:
        self.run(self.add_each(jobs))

    async def add_each(self, jobs: int) -> None:
        queries = await self.queries()
        for number in range(jobs):
            await queries.enqueue("noop", str(number).encode())

    def enqueue_in_transaction(self, jobs: int) -> None:
        self.run(self.add_in_transaction(jobs))

    async def add_in_transaction(self, jobs: int) -> None:
        await self.queries()
        async with self.connection.transaction():
            await self.add_each(jobs)

    def enqueue_stamp(self, sent: float) -> None:
        self.run(self.add_stamp(sent))

    async def add_stamp(self, sent: float) -> None:
        queries = await self.queries()
        await queries.enqueue("stamp", json.dumps(sent).encode())

    def work(self, processes: int, threads: int, task: str) -> None:
        # A pool takes 0.3 ms more than a connection to pick up a single job.
        pooled = processes == 1 and task != "stamp"
        uvloop.run(run(lambda: queuer(pooled, threads, task), batch_size=BATCH_SIZE))


@asynccontextmanager
async def queuer(pooled: bool, threads: int, task: str) -> AsyncIterator[PgQueuer]:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads))
    async with AsyncExitStack() as stack:
        if pooled:
            pool = await stack.enter_async_context(asyncpg.create_pool(URL, min_size=3, max_size=5))
            queuer = PgQueuer.from_asyncpg_pool(pool)
        else:
            queuer = PgQueuer.from_asyncpg_connection(await asyncpg.connect(URL))
        register(queuer)
        if task == "row":
            count = ROW_CONNECTIONS
            register_row(
                queuer, await stack.enter_async_context(asyncpg.create_pool(URL, min_size=count, max_size=count))
            )
        yield queuer


def register(queuer: PgQueuer) -> None:
    @queuer.entrypoint("noop")
    async def noop(job: Job) -> None:
        pass

    @queuer.entrypoint("sleep")
    async def sleep(job: Job) -> None:
        await asyncio.to_thread(time.sleep, SLEEP_SECONDS)

    @queuer.entrypoint("asleep")
    async def asleep(job: Job) -> None:
        await asyncio.sleep(SLEEP_SECONDS)

    @queuer.entrypoint("stamp")
    async def stamped(job: Job) -> None:
        stamp(json.loads(job.payload or b""))


def register_row(queuer: PgQueuer, rows: asyncpg.Pool) -> None:
    @queuer.entrypoint("row")
    async def row(job: Job) -> None:
        await rows.execute("INSERT INTO effects_effect (number) VALUES ($1)", int(job.payload or b""))


if __name__ == "__main__":
    main(PgQueuerDriver())
