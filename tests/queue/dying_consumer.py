"""A worker that takes messages and then hangs, for a test to kill.

`dying_consumer.py rabbitmq <url> <prefix> <topic> <count>` or `dying_consumer.py spool <url> <topic> <count>`
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from payflow.infra.queue.port import Queue
from tests.queue.constants import DELIVERY_LIMIT, LEASE_SECONDS, LONG, SHORT


def make_queue(kind: str, url: str, *prefix: str) -> Queue:
    if kind == "spool":  # imported only where needed: this program starts several times in a run
        from payflow.infra.database import Database
        from payflow.infra.queue.spool import SpoolQueue

        return SpoolQueue(Database(url), lease_seconds=LEASE_SECONDS, delivery_limit=DELIVERY_LIMIT)
    from payflow.infra.queue.rabbitmq import RabbitQueue

    return RabbitQueue(url, *prefix, delays_seconds=(SHORT, LONG), delivery_limit=DELIVERY_LIMIT)


async def main(*arguments: str) -> None:
    *where, topic, count = arguments
    queue = make_queue(*where)
    await queue.start()
    async with queue.consume(topic, prefetch=int(count)) as consumer:
        taken = 0
        while taken < int(count):
            taken += len(await consumer.batch(int(count) - taken))
        print("taken", flush=True)
        await asyncio.sleep(3600)


asyncio.run(main(*sys.argv[1:]))
