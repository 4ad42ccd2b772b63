"""What RabbitMQ and the spool both promise."""

import asyncio

import pytest

from payflow.core.errors import Conflict, NotFound
from payflow.core.ids import uuid7
from payflow.infra.queue.port import DELIVERY_LIMIT_REASON, Message
from tests.queue.constants import LONG, SHORT
from tests.queue.harness import Bench, message

TOPIC = "webhooks"


async def test_a_published_message_is_delivered_as_it_was_sent(bench: Bench) -> None:
    sent = message(b"\x00\xffraw", provider="stripe", correlation_id="abc", received_at="2026-01-01T00:00:00Z")
    async with bench.queue.consume(TOPIC, prefetch=10) as consumer:
        await bench.queue.publish(TOPIC, sent)
        (delivery,) = await bench.take(consumer, 1)
        assert delivery.message == sent
        assert delivery.redelivered is False
        assert delivery.reason == ""
        await consumer.ack([delivery])
    await bench.depth_becomes(TOPIC, 0)


async def test_an_empty_and_a_large_body_survive(bench: Bench) -> None:
    async with bench.queue.consume(TOPIC, prefetch=10) as consumer:
        for body in (b"", bytes(range(256)) * 4096):
            await bench.queue.publish(TOPIC, message(body))
            (delivery,) = await bench.take(consumer, 1)
            assert delivery.message.body == body
            await consumer.ack([delivery])


async def test_topics_do_not_mix(bench: Bench) -> None:
    await bench.queue.publish("deliveries", message(b"outgoing"))
    async with (
        bench.queue.consume(TOPIC, prefetch=10) as incoming,
        bench.queue.consume("deliveries", prefetch=1) as out,
    ):
        assert [delivery.message.body for delivery in await bench.take(out, 1)] == [b"outgoing"]
        assert await bench.quiet(incoming)


async def test_a_batch_takes_what_is_there_and_never_waits_to_fill(bench: Bench) -> None:
    sent = {(await _publish(bench)).id for _ in range(7)}
    async with bench.queue.consume(TOPIC, prefetch=50) as consumer:
        async with asyncio.timeout(30):
            first = await consumer.batch(5)
            assert 1 <= len(first) <= 5
        rest = await bench.take(consumer, 7 - len(first))
        assert {delivery.message.id for delivery in first + rest} == sent
        await consumer.ack(first + rest)
    await bench.depth_becomes(TOPIC, 0)


async def test_acknowledging_a_part_of_a_batch_leaves_the_rest(bench: Bench) -> None:
    for _ in range(6):
        await _publish(bench)
    async with bench.queue.consume(TOPIC, prefetch=6) as consumer:
        deliveries = await bench.take(consumer, 6)
        await consumer.ack([deliveries[0], deliveries[1], deliveries[3], deliveries[5]])
        await asyncio.sleep(0.1)
    left = {deliveries[2].message.id, deliveries[4].message.id}
    async with bench.queue.consume(TOPIC, prefetch=6) as consumer:
        again = await bench.take(consumer, 2)
        assert {delivery.message.id for delivery in again} == left
        assert all(delivery.redelivered for delivery in again)
        assert await bench.quiet(consumer)
        await consumer.ack(again)


async def test_no_more_is_handed_out_than_prefetch(bench: Bench) -> None:
    for _ in range(3):
        await _publish(bench)
    async with bench.queue.consume(TOPIC, prefetch=2) as consumer:
        held = await bench.take(consumer, 2)
        assert await bench.quiet(consumer)
        await consumer.ack(held)
        await consumer.ack(await bench.take(consumer, 1))


async def test_a_cancelled_wait_for_a_batch_loses_nothing(bench: Bench) -> None:
    async with bench.queue.consume(TOPIC, prefetch=10) as consumer:
        for _ in range(5):
            waiting = asyncio.create_task(consumer.batch(1))
            await _publish(bench)
            await asyncio.sleep(0.002)
            waiting.cancel()
            outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
            delivery = outcome[0] if isinstance(outcome, list) else (await bench.take(consumer, 1))[0]
            assert delivery.redelivered is False
            await consumer.ack([delivery])


async def test_a_retry_comes_back_after_its_delay_with_one_attempt_more(bench: Bench) -> None:
    sent = await _publish(bench)
    loop = asyncio.get_running_loop()
    async with bench.queue.consume(TOPIC, prefetch=10) as consumer:
        (delivery,) = await bench.take(consumer, 1)
        began = loop.time()
        await consumer.retry(delivery, SHORT, "provider timeout")
        (again,) = await bench.take(consumer, 1)
        assert loop.time() - began >= SHORT * 0.9
        assert again.message == Message(sent.id, sent.body, sent.headers, attempt=1)
        assert again.redelivered is False
        assert again.reason == "provider timeout"
        await consumer.ack([again])
        assert await bench.quiet(consumer)


async def test_a_message_climbs_the_ladder_rung_by_rung_and_ends_in_the_dead_letters(bench: Bench) -> None:
    ladder = (SHORT, SHORT, LONG)
    sent = await _publish(bench)
    async with bench.queue.consume(TOPIC, prefetch=10) as consumer:
        for rung, delay in enumerate(ladder):
            (delivery,) = await bench.take(consumer, 1)
            assert delivery.message.attempt == rung
            await consumer.retry(delivery, delay, f"rung {rung}")
        (delivery,) = await bench.take(consumer, 1)
        assert delivery.message.attempt == 3
        await consumer.dead_letter(delivery, "gave up after 3 retries: provider timeout")
    (dead,) = await bench.dead(TOPIC)
    assert dead.message == Message(sent.id, sent.body, sent.headers, attempt=3)
    assert dead.reason == "gave up after 3 retries: provider timeout"
    await bench.depth_becomes(TOPIC, 0)


async def test_a_malformed_message_goes_straight_to_the_dead_letters(bench: Bench) -> None:
    sent = await _publish(bench, b"not json")
    async with bench.queue.consume(TOPIC, prefetch=10) as consumer:
        (delivery,) = await bench.take(consumer, 1)
        await consumer.dead_letter(delivery, "malformed: \x00 at 0")
        assert await bench.quiet(consumer)
    (dead,) = await bench.dead(TOPIC)
    assert (dead.message, dead.reason) == (sent, "malformed:  at 0")


async def test_a_dead_letter_is_replayed_from_attempt_0_and_once(bench: Bench) -> None:
    sent = await _publish(bench)
    async with bench.queue.consume(TOPIC, prefetch=10) as consumer:
        (delivery,) = await bench.take(consumer, 1)
        await consumer.retry(delivery, SHORT, "first")
        (delivery,) = await bench.take(consumer, 1)
        await consumer.dead_letter(delivery, "second")
        (dead,) = await bench.dead(TOPIC)
        assert dead.message.attempt == 1

        replayed = await bench.dead_letters.replay(dead.id, bench.queue, "ada@example.com")
        assert replayed == sent
        (again,) = await bench.take(consumer, 1)
        assert again.message == sent
        with pytest.raises(Conflict):
            await bench.dead_letters.replay(dead.id, bench.queue, "ada@example.com")
        await consumer.ack([again])
        assert await bench.quiet(consumer)
    stored = await bench.dead_letters.get(dead.id)
    assert stored.replayed_by == "ada@example.com"
    assert stored.replayed_at is not None
    assert await bench.dead_letters.count(TOPIC) == 0
    with pytest.raises(NotFound):
        await bench.dead_letters.replay(uuid7(), bench.queue, "ada@example.com")


async def test_what_a_dead_consumer_held_comes_again_marked_redelivered(bench: Bench) -> None:
    sent = {(await _publish(bench)).id for _ in range(3)}
    await bench.take_and_die(TOPIC, 3)
    async with bench.queue.consume(TOPIC, prefetch=10) as consumer:
        again = await bench.take(consumer, 3)
        assert {delivery.message.id for delivery in again} == sent
        assert all(delivery.redelivered for delivery in again)
        await consumer.ack(again)


async def test_a_slow_consumer_that_lives_keeps_its_message(bench: Bench) -> None:
    await _publish(bench)
    async with bench.queue.consume(TOPIC, prefetch=1) as slow, bench.queue.consume(TOPIC, prefetch=1) as other:
        waiting = asyncio.create_task(other.batch(1))
        first = asyncio.create_task(slow.batch(1))
        done, pending = await asyncio.wait({waiting, first}, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        assert len(done) == 1
        _, still_pending = await asyncio.wait(pending, timeout=1.2)  # longer than the spool's lease
        assert still_pending == pending
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        holder = other if waiting in done else slow
        await holder.ack(done.pop().result())
    await bench.depth_becomes(TOPIC, 0)


async def test_a_released_message_comes_again_at_once(bench: Bench) -> None:
    sent = await _publish(bench)
    async with bench.queue.consume(TOPIC, prefetch=1) as consumer:
        (delivery,) = await bench.take(consumer, 1)
        await consumer.release(delivery)
        (again,) = await bench.take(consumer, 1, 1.0)
        assert again.message == sent
        assert again.redelivered is True
        await consumer.ack([again])


async def test_what_a_consumer_holds_when_it_ends_goes_back_at_once(bench: Bench) -> None:
    sent = await _publish(bench)
    async with bench.queue.consume(TOPIC, prefetch=5) as consumer:
        await bench.take(consumer, 1)
    async with bench.queue.consume(TOPIC, prefetch=5) as consumer:
        (again,) = await bench.take(consumer, 1)
        assert again.message == sent
        await consumer.ack([again])


async def test_a_message_that_kills_its_consumers_ends_in_the_dead_letters(bench: Bench) -> None:
    sent = await _publish(bench)
    await bench.take_and_die(TOPIC)
    await bench.take_and_die(TOPIC)
    async with bench.queue.consume(TOPIC, prefetch=5) as consumer:
        assert await bench.quiet(consumer, 1.0)
        (dead,) = await bench.dead(TOPIC)
    assert dead.message == sent
    assert dead.reason == DELIVERY_LIMIT_REASON


async def test_two_consumers_never_hold_the_same_message(bench: Bench) -> None:
    sent = {(await _publish(bench)).id for _ in range(100)}
    seen: list[str] = []

    async def work(prefetch: int) -> None:
        async with bench.queue.consume(TOPIC, prefetch=prefetch) as consumer:
            while len(seen) < len(sent):
                try:
                    async with asyncio.timeout(1):
                        deliveries = await consumer.batch(10)
                except TimeoutError:
                    continue
                seen.extend(delivery.message.id for delivery in deliveries)
                await asyncio.sleep(0.001)
                await consumer.ack(deliveries)

    async with asyncio.timeout(20):
        await asyncio.gather(work(20), work(20))
    assert len(seen) == 100
    assert set(seen) == sent


async def test_200_publishes_at_once_all_arrive(bench: Bench) -> None:
    messages = [message(str(number).encode()) for number in range(200)]
    await asyncio.gather(*(bench.queue.publish(TOPIC, one) for one in messages))
    async with bench.queue.consume(TOPIC, prefetch=100) as consumer:
        taken: list[Message] = []
        while len(taken) < 200:
            deliveries = await bench.take(consumer, 1)
            taken += [delivery.message for delivery in deliveries]
            await consumer.ack(deliveries)
    assert sorted(one.id for one in taken) == sorted(one.id for one in messages)


async def test_depth_counts_what_is_ready(bench: Bench) -> None:
    assert await bench.queue.depth(TOPIC) == 0
    for _ in range(3):
        await _publish(bench)
    await bench.depth_becomes(TOPIC, 3)
    async with bench.queue.consume(TOPIC, prefetch=2) as consumer:
        held = await bench.take(consumer, 2)
        await bench.depth_becomes(TOPIC, 1)
        await consumer.ack(held)


async def test_the_queue_answers_a_ping(bench: Bench) -> None:
    await bench.queue.ping()


async def _publish(bench: Bench, body: bytes = b"{}") -> Message:
    sent = message(body)
    await bench.queue.publish(TOPIC, sent)
    return sent
