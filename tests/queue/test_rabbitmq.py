"""What is RabbitMQ's alone: topology, unroutable messages, foreign messages, its way of counting and of ending."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection, HeadersType
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from payflow.infra.database import Database
from payflow.infra.queue.dead_letters import DeadLetter, DeadLetters, drain_dead_letters
from payflow.infra.queue.port import Message, QueueAway
from payflow.infra.queue.rabbitmq import RabbitQueue
from payflow.infra.queue.rabbitmq_link import connect, named
from payflow.infra.queue.rabbitmq_message import from_delivered
from tests.queue.constants import SHORT
from tests.queue.harness import message, open_rabbit, until_reachable

TOPIC = "webhooks"


@pytest.fixture
async def queue(amqp_url: str) -> AsyncIterator[RabbitQueue]:
    async with open_rabbit(amqp_url) as opened:
        yield opened


@pytest.fixture
async def operator(amqp_url: str) -> AsyncIterator[AbstractConnection]:
    async with await aio_pika.connect(amqp_url) as connection:
        yield connection


async def test_a_delay_queue_bears_its_delay_in_its_name_and_the_next_longer_one_is_chosen(queue: RabbitQueue) -> None:
    assert f"{queue.prefix}.webhooks.delay.200ms" in queue.queue_names
    chosen = {delay: queue.delay_key(TOPIC, delay) for delay in (0, 0.2, 0.3, 0.5, 99)}
    assert chosen == {
        0: "webhooks.delay.200ms",
        0.2: "webhooks.delay.200ms",
        0.3: "webhooks.delay.500ms",
        0.5: "webhooks.delay.500ms",
        99: "webhooks.delay.500ms",
    }


async def test_an_unroutable_message_is_refused_and_the_queue_is_declared_anew(
    queue: RabbitQueue, operator: AbstractConnection
) -> None:
    async with queue.consume(TOPIC, prefetch=5) as consumer:
        await queue.publish(TOPIC, message())
        await consumer.ack(await consumer.batch(5))
        channel = await operator.channel()
        with pytest.raises(QueueAway):
            await queue.send("nobody.listens", message())
        await channel.queue_delete(f"{queue.prefix}.{TOPIC}")
        with pytest.raises(QueueAway):
            await queue.publish(TOPIC, message())
        sent = await _publish_until_taken(queue)
        async with asyncio.timeout(30):
            (delivery,) = await consumer.batch(5)
        assert delivery.message == sent
        await consumer.ack([delivery])


async def test_a_sender_alone_declares_a_deleted_queue_or_exchange_anew(
    queue: RabbitQueue, operator: AbstractConnection
) -> None:
    channel = await operator.channel()
    await channel.queue_delete(f"{queue.prefix}.{TOPIC}")
    with pytest.raises(QueueAway):
        await queue.publish(TOPIC, message())
    await _publish_until_taken(queue)
    await channel.exchange_delete(queue.prefix)
    with pytest.raises(QueueAway):
        await queue.publish(TOPIC, message())
    await _publish_until_taken(queue)


async def test_a_consumer_alone_declares_a_deleted_queue_anew(queue: RabbitQueue, operator: AbstractConnection) -> None:
    async with queue.consume(TOPIC, prefetch=5) as consumer:
        await queue.publish(TOPIC, message())
        await consumer.ack(await consumer.batch(5))
        channel = await operator.channel()
        await channel.queue_delete(f"{queue.prefix}.{TOPIC}")
        await asyncio.sleep(1)
        assert await queue.depth(TOPIC) == 0


async def test_a_queue_with_other_arguments_is_used_as_it_is(queue: RabbitQueue, amqp_url: str) -> None:
    newer = RabbitQueue(amqp_url, queue.prefix, delays_seconds=(SHORT,), delivery_limit=99)
    await newer.start()
    await until_reachable(newer)
    await newer.publish(TOPIC, message())
    await newer.close()


async def test_a_foreign_message_with_odd_headers_is_stored_once_and_holds_up_nobody(
    queue: RabbitQueue, operator: AbstractConnection, queue_database: Database
) -> None:
    channel = await operator.channel()
    exchange = await channel.get_exchange(queue.prefix)
    for _ in range(2):
        headers: HeadersType = {"text": "a\x00b", "number": 3, "nested": {"a": [1]}}
        foreign = aio_pika.Message(b"by hand", message_id="m\x001", headers=headers)
        await exchange.publish(foreign, routing_key=f"{TOPIC}.dead")
    dead_letters = DeadLetters(queue_database)
    draining = asyncio.create_task(drain_dead_letters(queue, dead_letters))
    async with asyncio.timeout(30):
        while len(await _stored(dead_letters)) == 0 or await queue.depth(f"{TOPIC}.dead") > 0:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)
    (dead,) = await _stored(dead_letters)
    assert dead.message.id == "m1"
    assert dead.message.body == b"by hand"
    assert dead.message.headers == {"text": "ab"}
    assert dead.message.attempt == 0


async def test_headers_too_large_for_a_frame_are_refused_and_end_nothing(queue: RabbitQueue) -> None:
    with pytest.raises(ValueError, match="headers"):
        await queue.publish(TOPIC, message(b"{}", much="x" * 200_000))
    await queue.publish(TOPIC, message(b"{}", much="x" * 16_000))


async def test_closing_fails_the_publishes_under_way_and_cancels_nobody(queue: RabbitQueue) -> None:
    publishing = [asyncio.create_task(queue.publish(TOPIC, message())) for _ in range(100)]
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await queue.close()
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), QueueAway}
    with pytest.raises(QueueAway):
        await queue.publish(TOPIC, message())


async def test_starting_and_closing_do_not_wait_for_a_broker_that_never_answers() -> None:
    async def connect(_: str) -> AbstractConnection:
        await asyncio.sleep(3600)
        raise AssertionError

    queue = RabbitQueue("amqp://127.0.0.1:1/", "never", delays_seconds=(1,), connect=connect)
    async with asyncio.timeout(1):
        await queue.start()
        async with queue.consume(TOPIC, prefetch=1):
            for call in (queue.publish(TOPIC, message()), queue.ping(), queue.depth(TOPIC)):
                with pytest.raises(QueueAway):
                    await call
        await queue.close()


async def test_a_connection_that_did_not_come_up_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """aio-pika would close it when it is collected, with a warning if no event loop runs there."""
    tried: list[aio_pika.Connection] = []

    class Noted(aio_pika.Connection):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            tried.append(self)

    monkeypatch.setattr(aio_pika, "Connection", Noted)
    with pytest.raises(ConnectionError):
        await connect("amqp://guest:guest@127.0.0.1:1/")
    assert [connection.is_closed for connection in tried] == [True]


def test_a_connection_is_named_and_the_urls_own_words_stand() -> None:
    assert named("amqp://u:p%40ss@host/%2F", "payflow publish") == (
        "amqp://u:p%40ss@host/%2F?name=payflow+publish&heartbeat=15"
    )
    assert named("amqps://host/v?heartbeat=60", "n") == "amqps://host/v?heartbeat=60&name=n"


def test_a_foreign_message_without_an_id_gets_the_same_one_each_time() -> None:
    def read() -> Message:
        deliver = Basic.Deliver("tag", 1, False, "", "")
        return from_delivered(DeliveredMessage(deliver, ContentHeader(), b"by hand", None))[0]  # type: ignore[arg-type]

    assert read() == read()
    assert UUID(read().id)


async def _stored(dead_letters: DeadLetters) -> tuple[DeadLetter, ...]:
    return (await dead_letters.list(TOPIC)).items


async def _publish_until_taken(queue: RabbitQueue) -> Message:
    async with asyncio.timeout(30):
        while True:
            sent = message()
            try:
                await queue.publish(TOPIC, sent)
                return sent
            except QueueAway:
                await asyncio.sleep(0.05)
