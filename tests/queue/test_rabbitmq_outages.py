"""RabbitMQ away, stopped, killed, frozen, blocked: a publish fails soon, and everything goes on by itself afterwards.

One private broker serves the whole file: the first test starts it, the last stops it.
"""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from payflow.infra.database import Database
from payflow.infra.queue.fallback import SpooledQueue
from payflow.infra.queue.port import Message, QueueAway
from payflow.infra.queue.rabbitmq import RabbitQueue
from tests.queue.constants import CONFIRM_SECONDS, LONG, SHORT
from tests.queue.harness import make_rabbit, make_spool, message, refused, until, until_reachable
from tests.services import PrivateRabbitMQ, services_are_required, unique_prefix

TOPIC = "webhooks"


@pytest.fixture(scope="module")
async def broker() -> AsyncIterator[PrivateRabbitMQ]:
    if PrivateRabbitMQ.installed() is None:
        if services_are_required():
            pytest.fail("RabbitMQ is not installed")
        pytest.skip("RabbitMQ is not installed")
    server = PrivateRabbitMQ()
    yield server
    await asyncio.to_thread(server.close)


@asynccontextmanager
async def opened(broker: PrivateRabbitMQ) -> AsyncIterator[RabbitQueue]:
    queue = make_rabbit(broker.url, unique_prefix("outage"))
    await queue.start()
    try:
        yield queue
    finally:
        await queue.close()


async def refused_without_waiting(queue: RabbitQueue) -> None:
    """One after another in half of the time that the waits for their confirmations would take together."""
    async with asyncio.timeout(10 * CONFIRM_SECONDS):
        for _ in range(20):
            await refused(queue)


async def test_a_broker_that_comes_later_is_found(broker: PrivateRabbitMQ) -> None:
    async with opened(broker) as queue, queue.consume(TOPIC, prefetch=5) as consumer:
        with pytest.raises(QueueAway):
            await queue.ping()
        await refused_without_waiting(queue)
        await asyncio.to_thread(broker.start)
        await until_reachable(queue)
        sent = message()
        await queue.publish(TOPIC, sent)
        async with asyncio.timeout(30):
            (delivery,) = await consumer.batch(5)
        assert delivery.message == sent
        await consumer.ack([delivery])


async def test_nothing_confirmed_is_lost_when_the_broker_is_killed_under_load(broker: PrivateRabbitMQ) -> None:
    confirmed: set[str] = set()
    seen: set[str] = set()
    errors: list[BaseException] = []
    stopping, complete = asyncio.Event(), asyncio.Event()

    async def send(queue: RabbitQueue) -> None:
        while not stopping.is_set():
            one = message()
            try:
                await queue.publish(TOPIC, one)
                confirmed.add(one.id)
            except QueueAway:
                await asyncio.sleep(0.02)
            except BaseException as error:
                errors.append(error)
                raise

    async def receive(queue: RabbitQueue) -> None:
        async with queue.consume(TOPIC, prefetch=20) as consumer:
            while not (complete.is_set() and confirmed <= seen):
                try:
                    async with asyncio.timeout(0.2):
                        deliveries = await consumer.batch(10)
                except TimeoutError:
                    continue
                await asyncio.sleep(0.001)
                seen.update(delivery.message.id for delivery in deliveries)
                await consumer.ack(deliveries)

    async with opened(broker) as queue:
        await until_reachable(queue)
        senders = [asyncio.create_task(send(queue)) for _ in range(8)]
        receiver = asyncio.create_task(receive(queue))
        await until(lambda: bool(confirmed))
        await asyncio.sleep(0.5)
        before = len(confirmed)
        await asyncio.to_thread(broker.kill)
        await refused_without_waiting(queue)
        await asyncio.to_thread(broker.start)
        await until_reachable(queue)
        await until(lambda: len(confirmed) > before)
        await asyncio.sleep(1)
        stopping.set()
        await asyncio.gather(*senders)
        complete.set()
        async with asyncio.timeout(60):
            await receiver
    assert errors == []
    assert confirmed <= seen


async def test_what_waits_on_the_ladder_survives_a_broker_that_is_killed(broker: PrivateRabbitMQ) -> None:
    """Some of it when its time has come meanwhile, and some while it was being moved."""
    async with opened(broker) as queue, queue.consume(TOPIC, prefetch=200) as consumer:
        await until_reachable(queue)
        messages = [message() for _ in range(60)]
        await asyncio.gather(*(queue.publish(TOPIC, each) for each in messages))
        sent = {each.id for each in messages}
        waiting: set[str] = set()
        while waiting < sent:
            for delivery in await consumer.batch(50):
                if delivery.message.attempt == 0:
                    await consumer.retry(delivery, (SHORT, LONG)[len(waiting) % 2], "later")
                    waiting.add(delivery.message.id)
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        await until_reachable(queue)
        back: set[str] = set()
        async with asyncio.timeout(60):
            while back < sent:
                deliveries = await consumer.batch(50)
                back |= {delivery.message.id for delivery in deliveries if delivery.message.attempt == 1}
                await consumer.ack(deliveries)
        assert back == sent


async def test_a_frozen_broker_costs_one_wait_and_not_one_for_each_message(broker: PrivateRabbitMQ) -> None:
    async with opened(broker) as queue:
        await until_reachable(queue)
        process = psutil.Process(broker.pid)
        family = [process, *process.children(recursive=True)]
        for member in family:
            member.suspend()
        try:
            await refused(queue)
            await refused_without_waiting(queue)
        finally:
            for member in family:
                member.resume()
        async with asyncio.timeout(30):
            while True:
                try:
                    await queue.publish(TOPIC, message())
                    break
                except QueueAway:
                    await asyncio.sleep(0.1)


async def test_a_broker_short_of_memory_counts_as_away_and_its_messages_can_still_be_consumed(
    broker: PrivateRabbitMQ,
) -> None:
    async with opened(broker) as queue:
        await until_reachable(queue)
        held = message()
        await queue.publish(TOPIC, held)
        await asyncio.to_thread(_control, broker, "set_vm_memory_high_watermark", "0.0000001")
        try:
            await refused(queue)
            await refused_without_waiting(queue)
            async with queue.consume(TOPIC, prefetch=5) as consumer:
                async with asyncio.timeout(30):
                    (delivery,) = await consumer.batch(1)
                assert delivery.message == held
                with pytest.raises(QueueAway):
                    await consumer.retry(delivery, 0.2, "provider timeout")
                await consumer.ack([delivery])
        finally:
            await asyncio.to_thread(_control, broker, "set_vm_memory_high_watermark", "0.6")
        await until_published(queue, message())


async def test_a_publish_falls_back_to_the_spool_when_the_broker_stops(
    broker: PrivateRabbitMQ, queue_database: Database
) -> None:
    spool = make_spool(queue_database)
    async with opened(broker) as queue:
        both = SpooledQueue(queue, spool)
        await until_reachable(queue)
        assert await both.publish(TOPIC, message()) == "rabbitmq"
        await asyncio.to_thread(broker.stop)
        await refused(queue)
        spooled = message()
        assert await both.publish(TOPIC, spooled) == "spool"
        async with spool.consume(TOPIC, prefetch=5) as consumer:
            async with asyncio.timeout(30):
                (delivery,) = await consumer.batch(5)
            assert delivery.message == spooled
            await consumer.ack([delivery])
    await spool.close()


async def until_published(queue: RabbitQueue, sent: Message) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await queue.publish(TOPIC, sent)
                return
            except QueueAway:
                await asyncio.sleep(0.1)


def _control(broker: PrivateRabbitMQ, *words: str) -> None:
    """`rabbitmqctl`, as the node's own user and with its cookie."""
    environment = broker._environment(broker.folder)
    owner = os.stat(broker.folder)
    subprocess.run(
        ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-n", environment["RABBITMQ_NODENAME"], *words],
        env=environment,
        user=owner.st_uid if os.geteuid() == 0 else None,
        group=owner.st_gid if os.geteuid() == 0 else None,
        check=True,
        capture_output=True,
        timeout=30,
    )
