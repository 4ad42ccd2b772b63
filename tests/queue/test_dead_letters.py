"""The table of dead letters: stored once, listed in pages, replayed at least once."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from payflow.core.errors import Conflict, Invalid, NotFound
from payflow.core.ids import uuid7
from payflow.infra.database import Database
from payflow.infra.queue.dead_letters import DeadLetters
from payflow.infra.queue.port import Delivery, Message, QueueAway
from tests.queue.harness import message

TOPIC = "webhooks"


class Recorder:
    """Takes messages, or is away."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.taken: list[tuple[str, Message]] = []

    async def publish(self, topic: str, message: Message) -> None:
        if self.away:
            raise QueueAway("away")
        self.taken.append((topic, message))


async def test_a_message_is_stored_once_until_it_is_replayed(queue_database: Database) -> None:
    dead_letters = DeadLetters(queue_database)
    dead = message()
    await dead_letters.add(TOPIC, dead, "first")
    await dead_letters.add(TOPIC, dead, "second")
    (stored,) = (await dead_letters.list(TOPIC)).items
    assert (stored.message, stored.reason) == (dead, "first")

    await dead_letters.replay(stored.id, Recorder(), "ada")
    await dead_letters.add(TOPIC, dead, "died again")
    (again,) = (await dead_letters.list(TOPIC)).items
    assert again.reason == "died again"
    assert len((await dead_letters.list(TOPIC, include_replayed=True)).items) == 2


async def test_pages_are_newest_first_and_meet_without_gap_or_overlap(queue_database: Database) -> None:
    dead_letters = DeadLetters(queue_database)
    for number in range(5):
        await dead_letters.add(TOPIC, message(), f"{'timeout' if number % 2 else 'malformed'}: {number}")
        await asyncio.sleep(0.002)  # ids order by the millisecond
    await dead_letters.add("deliveries", message(), "timeout: other topic")

    seen: list[str] = []
    cursor = None
    while True:
        page = await dead_letters.list(TOPIC, limit=2, cursor=cursor)
        seen += [item.reason for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ["malformed: 4", "timeout: 3", "malformed: 2", "timeout: 1", "malformed: 0"]
    assert [item.reason for item in (await dead_letters.list(TOPIC, reason="timeout")).items] == [
        "timeout: 3",
        "timeout: 1",
    ]
    assert len((await dead_letters.list()).items) == 6
    assert (await dead_letters.count(TOPIC), await dead_letters.count()) == (5, 6)
    with pytest.raises(Invalid):
        await dead_letters.list(TOPIC, cursor="not a cursor")


async def test_a_replay_begins_at_attempt_0_and_happens_once(queue_database: Database) -> None:
    dead_letters, queue = DeadLetters(queue_database), Recorder()
    dead = Message(str(uuid7()), b"body", {"provider": "mpesa"}, attempt=7)
    await dead_letters.add(TOPIC, dead, "provider timeout")
    (stored,) = (await dead_letters.list(TOPIC)).items

    expected = Message(dead.id, b"body", {"provider": "mpesa"}, attempt=0)
    assert await dead_letters.replay(stored.id, queue, "ada") == expected
    with pytest.raises(Conflict):
        await dead_letters.replay(stored.id, queue, "bob")
    assert queue.taken == [(TOPIC, expected)]
    assert (await dead_letters.get(stored.id)).replayed_by == "ada"


async def test_a_replay_that_dies_before_it_is_marked_is_listed_anew(queue_database: Database) -> None:
    """A worker may be done with it sooner than the replay: the letter must not vanish behind the mark."""
    dead_letters = DeadLetters(queue_database)

    class Hasty(Recorder):
        async def publish(self, topic: str, message: Message) -> None:
            await super().publish(topic, message)
            await dead_letters.add(topic, message, "as malformed as before")

    await dead_letters.add(TOPIC, message(), "malformed")
    (stored,) = (await dead_letters.list(TOPIC)).items
    await dead_letters.replay(stored.id, Hasty(), "ada")
    (again,) = (await dead_letters.list(TOPIC)).items
    assert (again.message.id, again.message.body) == (stored.message.id, stored.message.body)
    assert again.id != stored.id
    assert (await dead_letters.get(stored.id)).replayed_by == "ada"


async def test_one_that_comes_twice_in_a_batch_is_stored_once(queue_database: Database) -> None:
    dead_letters = DeadLetters(queue_database)
    dead = Delivery(message(), redelivered=True, handle=None, reason="malformed")
    await dead_letters.add_deliveries(TOPIC, [dead, dead])
    assert await dead_letters.count(TOPIC) == 1


async def test_a_replay_that_could_not_be_published_changes_nothing(queue_database: Database) -> None:
    dead_letters = DeadLetters(queue_database)
    await dead_letters.add(TOPIC, message(), "provider timeout")
    (stored,) = (await dead_letters.list(TOPIC)).items
    with pytest.raises(QueueAway):
        await dead_letters.replay(stored.id, Recorder(away=True), "ada")
    assert await dead_letters.get(stored.id) == stored
    assert await dead_letters.count(TOPIC) == 1


async def test_many_are_found_by_what_they_have_in_common_and_replayed_oldest_first(queue_database: Database) -> None:
    dead_letters, queue = DeadLetters(queue_database), Recorder()
    for number in range(6):
        headers = {"provider": "mpesa" if number % 2 else "stripe"}
        await dead_letters.add(TOPIC, Message(f"m{number}", b"", headers), "given up" if number < 4 else "malformed")
        await asyncio.sleep(0.002)  # ids order by the millisecond
    await dead_letters.add("deliveries", Message("other", b"", {"provider": "mpesa"}), "given up")
    (newest, *_) = (await dead_letters.list(TOPIC)).items
    later = newest.dead_at + timedelta(seconds=1)

    async def names(before: datetime = later, **which: Any) -> tuple[list[str], bool]:
        found, more = await dead_letters.matching(
            TOPIC, before, **{"provider": None, "reason": None, "limit": 10, **which}
        )
        return [letter.message.id for letter in found], more

    assert await names() == ([f"m{number}" for number in range(6)], False)
    assert await names(newest.dead_at) == ([f"m{number}" for number in range(5)], False)
    assert await names(provider="mpesa", limit=2) == (["m1", "m3"], True)
    assert await names(reason="given") == (["m0", "m1", "m2", "m3"], False)
    assert [item.message.id for item in (await dead_letters.list(TOPIC, provider="stripe")).items] == ["m4", "m2", "m0"]

    found, _ = await dead_letters.matching(TOPIC, later, provider="mpesa", reason="given up", limit=10)
    await dead_letters.replay(found[0].id, queue, "bob")
    done = await dead_letters.replay_each(found, queue, "ada")
    assert [letter.message.id for letter in done] == ["m3"]
    assert [message.id for _, message in queue.taken] == ["m1", "m3"]
    assert await names(provider="mpesa") == (["m5"], False)


async def test_a_queue_that_goes_away_leaves_the_rest_listed(queue_database: Database) -> None:
    dead_letters = DeadLetters(queue_database)

    class Leaving(Recorder):
        async def publish(self, topic: str, message: Message) -> None:
            await super().publish(topic, message)
            self.away = True

    for number in range(3):
        await dead_letters.add(TOPIC, Message(f"m{number}", b"", {}), "given up")
    letters, queue = (await dead_letters.list(TOPIC)).items, Leaving()
    assert await dead_letters.replay_each(letters, queue, "ada") == [letters[0]]
    assert await dead_letters.count(TOPIC) == 2
    with pytest.raises(QueueAway):
        await dead_letters.replay_each(letters[1:], queue, "ada")


async def test_an_unknown_dead_letter_is_not_found(queue_database: Database) -> None:
    dead_letters = DeadLetters(queue_database)
    with pytest.raises(NotFound):
        await dead_letters.get(uuid7())
    with pytest.raises(NotFound):
        await dead_letters.replay(uuid7(), Recorder(), "ada")
