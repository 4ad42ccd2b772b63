"""The consumer's loop: whatever fails, no message is lost and the next one is worked on."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from payflow.core.clock import utc_now
from payflow.infra.queue.port import WEBHOOKS, Delivery, Message, QueueAway
from payflow.infra.queue.spool import SpoolConsumer
from payflow.webhooks.processing import Disposition, Ending
from tests.house import Urls, eventually, running_house
from tests.webhooks.desk import (
    Relay,
    attempt_of,
    charge_success,
    counted,
    encoded,
    publish,
    send_paystack,
    story,
    until_dead,
)
from worker.consumers import BATCHES_AT_ONCE, PATIENCE_SECONDS, WebhookConsumer
from worker.timers import repeat

BY_HAND: dict[str, Any] = {"simulator": {"automatic_customer": False}, "timer_interval_seconds": 3_600.0}


class Tray:
    """A queue in memory that keeps the port's promises, and refuses what the test tells it to."""

    name = "tray"

    def __init__(self, *messages: Message, refuse: dict[str, int] | None = None) -> None:
        self.ready = list(messages)
        self.held: list[Message] = []
        self.acked: list[Message] = []
        self.retried: list[tuple[Message, float, str]] = []
        self.dead: list[tuple[Message, str]] = []
        self.consumers = 0
        self._refuse = refuse or {}

    @asynccontextmanager
    async def consume(self, topic: str, *, prefetch: int) -> AsyncIterator["Tray"]:
        self._may("consume")
        self.consumers += 1
        try:
            yield self
        finally:
            self.ready, self.held = [*self.held, *self.ready], []

    async def batch(self, limit: int) -> list[Delivery]:
        await eventually(lambda: self.ready, seconds=60)
        taken, self.ready = self.ready[:limit], self.ready[limit:]
        self.held += taken
        return [Delivery(message, False, None) for message in taken]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.acked += self._let_go(deliveries)

    async def retry(self, delivery: Delivery, delay_seconds: float, reason: str) -> None:
        self._may("retry")
        self.retried += [(message, delay_seconds, reason) for message in self._let_go([delivery])]

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        self._may("dead_letter")
        self.dead += [(message, reason) for message in self._let_go([delivery])]

    def _let_go(self, deliveries: Sequence[Delivery]) -> list[Message]:
        gone = [delivery.message for delivery in deliveries]
        self.held = [message for message in self.held if message not in gone]
        return gone

    def _may(self, what: str) -> None:
        if self._refuse.get(what, 0) > 0:
            self._refuse[what] -= 1
            raise QueueAway("the queue went away")


class Desk:
    """A processor that says what the test wants, by the message's body."""

    def __init__(self, **answers: Disposition | Exception) -> None:
        self._answers = answers
        self.batches: list[int] = []

    async def process(self, messages: Sequence[Message]) -> list[Disposition]:
        self.batches.append(len(messages))
        ends = [self._answers.get(message.body.decode(), Disposition()) for message in messages]
        for end in ends:
            if isinstance(end, Exception):
                raise end
        return [end for end in ends if isinstance(end, Disposition)]

    def postponed(self, message: Message, error: Exception) -> Disposition:
        return Disposition(Ending.RETRY, type(error).__name__, 60.0)


def message(body: str) -> Message:
    return Message(str(uuid4()), body.encode(), {"provider": "paystack", "received_at": utc_now().isoformat()})


@asynccontextmanager
async def consuming(tray: Any, desk: Any, batch: int = 50) -> AsyncIterator[None]:
    task = asyncio.create_task(WebhookConsumer(tray, desk, prefetch=100, batch=batch).run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_each_message_ends_as_the_processor_says() -> None:
    good, later, never = message("good"), message("later"), message("never")
    tray = Tray(good, later, never)
    desk = Desk(later=Disposition(Ending.RETRY, "not yet", 7.0), never=Disposition(Ending.DEAD, "malformed"))
    async with consuming(tray, desk):
        await eventually(lambda: tray.dead)
    assert tray.acked == [good]
    assert tray.retried == [(later, 7.0, "not yet")]
    assert tray.dead == [(never, "malformed")]
    assert desk.batches == [3]


async def test_a_batch_that_fails_as_a_whole_comes_again_message_by_message_on_the_ladder() -> None:
    tray = Tray(message("good"), message("bug"), message("good"))
    async with consuming(tray, Desk(bug=RuntimeError("a bug"))):
        await eventually(lambda: len(tray.retried) == 3)
    assert [(delay, reason) for _, delay, reason in tray.retried] == [(60.0, "RuntimeError")] * 3
    assert tray.acked == []


async def test_a_queue_that_goes_away_at_a_retry_keeps_the_message_and_the_loop_goes_on() -> None:
    good, later = message("good"), message("later")
    tray = Tray(good, later, refuse={"retry": 1})
    async with consuming(tray, Desk(later=Disposition(Ending.RETRY, "not yet", 7.0))):
        await eventually(lambda: tray.retried)
        assert tray.acked == [good]
        assert tray.retried == [(later, 7.0, "not yet")]
        assert tray.consumers == 2
        assert tray.held == []


async def test_a_queue_that_goes_away_at_a_dead_letter_keeps_the_message_and_the_loop_goes_on() -> None:
    never, after = message("never"), message("after")
    tray = Tray(never, after, refuse={"dead_letter": 2})
    async with consuming(tray, Desk(never=Disposition(Ending.DEAD, "malformed")), batch=1):
        await eventually(lambda: tray.dead and tray.acked)
    assert tray.dead == [(never, "malformed")]
    assert tray.acked == [after]


async def test_a_queue_that_cannot_be_consumed_is_tried_again() -> None:
    tray = Tray(message("good"), refuse={"consume": 2})
    async with consuming(tray, Desk()):
        await eventually(lambda: tray.acked)


async def test_a_message_the_queue_cannot_delay_does_not_end_the_loop() -> None:
    """Some other error than an outage: headers that fit no frame, for example."""
    tray = Tray(message("later"))

    async def retry(delivery: Delivery, delay_seconds: float, reason: str) -> None:
        tray._may("retry")
        if not tray.retried:
            tray.retried.append((delivery.message, delay_seconds, reason))
            raise ValueError("A queue message's headers are too large.")
        await Tray.retry(tray, delivery, delay_seconds, reason)

    tray.retry = retry  # type: ignore[method-assign]
    async with consuming(tray, Desk(later=Disposition(Ending.RETRY, "not yet", 7.0))):
        await eventually(lambda: len(tray.retried) == 2)


# With the real parts


async def test_while_the_database_is_away_messages_are_kept_in_hand_and_worked_on_at_once_after(urls: Urls) -> None:
    """No rung of the ladder is spent: an outage of ours is not the message's fault."""
    async with (
        Relay.to(urls.postgres) as relay,
        running_house(replace(urls, postgres=relay.url), **BY_HAND, ladder_seconds=(600.0,)) as house,
    ):
        ada = await house.merchant()
        payment = await ada.payment((await ada.pay("paystack"))["id"])
        event = charge_success(attempt_of(payment)["reference"])
        await house.services.registry.credentials("paystack")
        await relay.cut()
        assert (await send_paystack(house, event)).status_code == 200
        await eventually(lambda: _taken(house))
        await relay.mend()
        paid = await house.until(ada, payment["id"], "completed")
        assert story(paid) == ["payment.initiated", "payment.requires_action", "payment.completed"]
        assert counted(house, "paystack", "retried") == 0
        assert house.worker.failed() == []


async def _taken(house: Any) -> bool:
    """The worker holds it: it lies in the queue no more."""
    return int(await house.services.queue.primary.depth(WEBHOOKS)) == 0


async def test_a_worker_that_ends_gives_back_what_it_held(urls: Urls) -> None:
    async with running_house(urls, **BY_HAND, worker=False) as house:
        ada = await house.merchant()
        payment = await ada.payment((await ada.pay("paystack"))["id"])
        await send_paystack(house, charge_success(attempt_of(payment)["reference"]))
        async with house.services.queue.primary.consume(WEBHOOKS, prefetch=10) as consumer:
            (delivery,) = await consumer.batch(10)
            assert not delivery.redelivered
        await house.worker.start()
        await house.until(ada, payment["id"], "completed")


async def test_oversized_headers_end_as_a_dead_letter_and_the_others_go_on(urls: Urls) -> None:
    async with running_house(urls, **BY_HAND, amqp_url="") as house:
        ada = await house.merchant()
        payment = await ada.payment((await ada.pay("paystack"))["id"])
        await publish(house, "paystack", b"{}", padding="x" * 30_000)
        await send_paystack(house, charge_success(attempt_of(payment)["reference"]))
        await house.until(ada, payment["id"], "completed")
        (letter,) = await until_dead(house)
        assert letter.reason.startswith("malformed")


async def test_start_and_stop_leave_nothing_running(urls: Urls) -> None:
    before = {task.get_name() for task in asyncio.all_tasks()}
    async with running_house(urls, **BY_HAND, worker=False) as house:
        working = house.worker
        await working.start()
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert {
            "consume rabbitmq",
            "consume spool",
            "drain dead letters",
            "check due",
            "housekeeping",
            "gauges",
        } <= names
        assert working.failed() == []
        await working.stop()
        gone = {task.get_name() for task in asyncio.all_tasks()}
        assert not {"consume rabbitmq", "consume spool", "drain dead letters", "check due", "housekeeping"} & gone
        # The same worker can start anew.
        await working.start()
        ada = await house.merchant()
        payment = await ada.payment((await ada.pay("paystack"))["id"])
        await send_paystack(house, charge_success(attempt_of(payment)["reference"]))
        await house.until(ada, payment["id"], "completed")
    await eventually(lambda: not _left_over(before))


def _left_over(before: set[str]) -> set[str]:
    """Tasks of ours that were not there before; those of the test runner have no names of their own."""
    return {name for name in {task.get_name() for task in asyncio.all_tasks()} - before if not name.startswith("Task-")}


@pytest.mark.parametrize("turns", range(8))
async def test_a_spool_consumer_that_is_told_to_stop_as_a_message_comes_stops(turns: int) -> None:
    """A few turns of the event loop lie between the wake-up and the one who waits for it; in each it must hear."""

    async def nothing(*_: object) -> list[Any]:
        return []

    consumer = SpoolConsumer(nothing, WEBHOOKS, 10, 60.0, 60.0, 20)
    waiting = asyncio.create_task(consumer.batch(1))
    for _ in range(20):
        await asyncio.sleep(0)
    consumer.woken.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    done, _ = await asyncio.wait([waiting], timeout=5)
    assert done == {waiting}
    assert waiting.cancelled()


async def test_a_worker_of_the_spool_alone_needs_no_broker(urls: Urls) -> None:
    async with running_house(urls, **BY_HAND, worker=False, amqp_url="") as house:
        await house.worker.start()
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert "consume spool" in names
        assert "consume rabbitmq" not in names
        ada = await house.merchant()
        payment = await ada.payment((await ada.pay("paystack"))["id"])
        body = encoded(charge_success(attempt_of(payment)["reference"]))
        await publish(house, "paystack", body)
        await house.until(ada, payment["id"], "completed")


class SlowDesk(Desk):
    """Messages that say "slow" wait until the test lets them go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.working = 0
        self.most = 0

    async def process(self, messages: Sequence[Message]) -> list[Disposition]:
        self.working += 1
        self.most = max(self.most, self.working)
        try:
            if any(message.body == b"slow" for message in messages):
                await self.go_on.wait()
            return await super().process(messages)
        finally:
            self.working -= 1


async def test_a_slow_batch_delays_no_other() -> None:
    """A provider that takes seconds to be asked back must not hold up another provider's payments."""
    slow, quick = message("slow"), message("quick")
    tray, desk = Tray(slow, quick), SlowDesk()
    async with consuming(tray, desk, batch=1):
        await eventually(lambda: tray.acked)
        assert tray.acked == [quick]
        assert tray.held == [slow]
        desk.go_on.set()
        await eventually(lambda: len(tray.acked) == 2)


async def test_only_a_few_batches_are_worked_on_at_once() -> None:
    tray, desk = Tray(*(message("slow") for _ in range(12))), SlowDesk()
    async with consuming(tray, desk, batch=1):
        await eventually(lambda: desk.working == BATCHES_AT_ONCE)
        await asyncio.sleep(4 * PATIENCE_SECONDS)
        assert len(tray.held) == BATCHES_AT_ONCE
        desk.go_on.set()
        await eventually(lambda: len(tray.acked) == 12)
    assert desk.most == BATCHES_AT_ONCE


async def test_a_queue_that_goes_away_under_one_batch_gives_the_others_back_as_well() -> None:
    slow, later = message("slow"), message("later")
    tray, desk = Tray(slow, later, refuse={"retry": 1}), SlowDesk()
    desk._answers = {"later": Disposition(Ending.RETRY, "not yet", 7.0)}
    async with consuming(tray, desk, batch=1):
        await eventually(lambda: tray.consumers == 2)
        desk.go_on.set()
        await eventually(lambda: tray.acked and tray.retried)
    assert tray.acked == [slow]
    assert tray.retried == [(later, 7.0, "not yet")]


async def test_a_worker_that_stops_leaves_no_batch_working() -> None:
    tray, desk = Tray(message("slow"), message("slow")), SlowDesk()
    async with consuming(tray, desk, batch=1):
        await eventually(lambda: desk.working == 2)
    assert desk.working == 0
    assert len(tray.ready) == 2


@pytest.mark.parametrize("turns", range(4))
async def test_a_timer_ends_though_a_library_swallows_its_cancellation(turns: int) -> None:
    """Before Python 3.12 `wait_for` does, when its answer comes in the same turn of the event loop."""
    answers: list[asyncio.Future[None]] = []

    async def ask() -> None:
        answers.append(asyncio.get_running_loop().create_future())
        await asyncio.wait_for(answers[-1], 60)

    timer = asyncio.create_task(repeat(60.0, "ask", ask))
    while not answers:  # noqa: ASYNC110 - the turns of the loop are what is tested
        await asyncio.sleep(0)
    answers[0].set_result(None)
    for _ in range(turns):
        await asyncio.sleep(0)
    timer.cancel()
    done, _ = await asyncio.wait([timer], timeout=5)
    assert done == {timer}
    assert timer.cancelled()
