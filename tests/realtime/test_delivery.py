"""Every event reaches its sockets once or more, in order and without gaps, whatever Redis does."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from payflow.core.ids import uuid7
from payflow.events.publisher import EventPublisher
from payflow.events.repository import EventRepository, first_id_at
from payflow.events.types import Event
from payflow.infra.database import Database, DatabaseAway
from payflow.infra.redis import Redis, connect_redis
from payflow.realtime.repository import RealtimeRepository, Watched
from tests.realtime.conftest import MakeNode
from tests.realtime.harness import CLIENT_TOKENS, Log, Node, nothing_comes, receive, receive_until, sequences, until
from tests.services import PrivateRedis

pytestmark = pytest.mark.timeout(60)


class HeldReads(RealtimeRepository):
    """A snapshot that waits, before or after it is read, until the test lets it go on."""

    def __init__(self, database: Database, *, hold_after_read: bool) -> None:
        super().__init__(database)
        self._hold_after_read = hold_after_read
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def transaction(self, transaction_id: UUID) -> Watched | None:
        found = await super().transaction(transaction_id) if self._hold_after_read else None
        self.reached.set()
        await self.go_on.wait()
        return found or await super().transaction(transaction_id)


class BusyReads(RealtimeRepository):
    """Something happens before and after every page that a user's replay reads."""

    happens: Callable[[], Awaitable[None]]

    async def of_user(self, user_id: UUID, *, after: UUID, limit: int) -> list[Event]:
        await self.happens()
        found = await super().of_user(user_id, after=after, limit=limit)
        await self.happens()
        return found


class FailingEvents(EventRepository):
    """A log that cannot be reached while `away`."""

    away = False
    asked = 0

    async def missing(self, seen: Mapping[UUID, int], *, limit: int = 5_000) -> list[Event]:
        self.asked += 1
        if self.away:
            raise DatabaseAway("for the test")
        return await super().missing(seen, limit=limit)


# Transactions


async def test_the_snapshot_comes_first_and_then_what_happens(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user, {"type": "otp"})
    await log.write(payment)
    async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
        snapshot = await receive(socket)
        told = await log.tell(payment, "processing", note="n")
        live = await receive(socket)
    assert snapshot.keys() == live.keys()
    assert snapshot["event_id"] is None
    assert (snapshot["sequence"], snapshot["status"]) == (2, "pending")
    assert (
        snapshot["data"].items()
        >= {
            "amount": "5000.00",
            "amount_minor": 500_000,
            "currency": "NGN",
            "provider": "paystack",
            "next_action": {"type": "otp"},
        }.items()
    )
    assert live == {
        "type": "payment.processing",
        "event_id": str(told.id),
        "transaction_id": str(payment),
        "sequence": 3,
        "status": "processing",
        "data": dict(told.data),
        "occurred_at": live["occurred_at"],
    }


@pytest.mark.parametrize("hold_after_read", [False, True])
async def test_nothing_falls_between_subscribing_and_the_snapshot(
    make_node: MakeNode, log: Log, database: Database, hold_after_read: bool
) -> None:
    reads = HeldReads(database, hold_after_read=hold_after_read)
    node = await make_node(parts={"reads": reads})
    user = await log.user()
    payment = await log.transaction(user)
    async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
        await reads.reached.wait()
        await log.tell(payment)
        await log.tell(payment, "processing")
        await asyncio.sleep(0.05)
        reads.go_on.set()
        snapshot = await receive(socket)
        assert snapshot["sequence"] == (1 if hold_after_read else 3)
        await log.tell(payment)
        assert await receive_until(socket, 4) == list(range(snapshot["sequence"] + 1, 5))


async def test_one_who_comes_later_closes_the_gap_of_those_who_are_there(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    path, token = f"/ws/transaction/{payment}", node.people.token(user)
    async with node.socket(path, token) as early:
        await receive(early)
        await log.write(payment)
        await log.write(payment)
        async with node.socket(path, token) as late:
            assert (await receive(late))["sequence"] == 3
            assert await receive_until(early, 3) == [2, 3]
            await log.tell(payment)
            assert (await receive(late))["sequence"] == 4
            assert (await receive(early))["sequence"] == 4


@pytest.mark.parametrize(("after", "replayed"), [(0, [1, 2, 3, 4, 5]), (3, [4, 5]), (5, []), (99, [])])
async def test_after_replays_from_the_log_and_goes_on_live(
    node: Node, log: Log, after: int, replayed: list[int]
) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    for _ in range(4):
        await log.write(payment)
    async with node.socket(f"/ws/transaction/{payment}?after={after}", node.people.token(user)) as socket:
        frames = [await receive(socket) for _ in range(1 + len(replayed))]
        await log.tell(payment)
        frames.append(await receive(socket))
    assert frames[0]["type"] == "snapshot"
    assert sequences(frames) == [5, *replayed, 6]
    assert all(frame["event_id"] for frame in frames[1:])


async def test_a_long_replay_that_races_with_new_events_has_no_gap(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    for _ in range(30):
        await log.write(payment)

    async def go_on() -> None:
        for _ in range(60):
            await log.tell(payment)

    writing = asyncio.create_task(go_on())
    sockets = []
    for start in range(10):
        socket = await node.socket(f"/ws/transaction/{payment}?after={start}", node.people.token(user))
        sockets.append((start, socket))
    await writing
    for start, socket in sockets:
        await receive(socket)
        assert await receive_until(socket, 91) == list(range(start + 1, 92))
        await socket.close()


@pytest.mark.parametrize("after", ["x", "-1", "99999999999"])
async def test_an_after_that_is_no_sequence_is_refused(node: Node, log: Log, after: str) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    async with node.socket(f"/ws/transaction/{payment}?after={after}", node.people.token(user)) as socket:
        await socket.wait_closed()
    assert (socket.close_code, socket.close_reason) == (4400, "malformed_request")


async def test_a_gap_is_filled_from_the_log_before_anything_later_is_sent(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
        await receive(socket)
        await log.write(payment)
        await log.write(payment)
        await log.tell(payment)
        assert await receive_until(socket, 4) == [2, 3, 4]
    assert node.counts.from_log == 3


async def test_events_published_out_of_order_and_twice_are_sent_in_order_and_once(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
        await receive(socket)
        events = [await log.write(payment) for _ in range(4)]
        await log.publisher.publish([events[2], events[1], events[1], events[0], events[3], events[0], events[3]])
        assert await receive_until(socket, 5) == [2, 3, 4, 5]
        assert await nothing_comes(socket)


async def test_what_comes_again_asks_the_log_for_nothing(make_node: MakeNode, log: Log, database: Database) -> None:
    events = FailingEvents(database)
    node = await make_node(parts={"events": events})
    user = await log.user()
    payment = await log.transaction(user)
    await until(lambda: node.hub.hears_redis)
    async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
        await receive(socket)
        first, second = await log.tell(payment), await log.tell(payment)
        assert await receive_until(socket, 3) == [2, 3]
        assert await nothing_comes(socket)  # and the look at the log that follows a new subscription is over
        events.asked = 0
        await log.publisher.publish([first, second, first])
        assert await nothing_comes(socket)
    assert events.asked == 0


async def test_a_lost_message_is_caught_up_within_the_interval(make_node: MakeNode, log: Log) -> None:
    node = await make_node(socket_catch_up_seconds=0.2)
    user = await log.user()
    first, second = await log.transaction(user), await log.transaction(user)
    token = node.people.token(user)
    async with (
        node.socket(f"/ws/transaction/{first}", token) as one,
        node.socket(f"/ws/transaction/{second}", token) as other,
        node.socket(f"/ws/transaction/{second}", CLIENT_TOKENS.mint(second)) as customer,
    ):
        for socket in (one, other, customer):
            await receive(socket)
        await log.write(first)
        await log.write(second, receipt="r")
        assert (await receive(one, 1))["sequence"] == 2
        assert (await receive(other, 1))["data"]["receipt"] == "r"
        assert "receipt" not in (await receive(customer, 1))["data"]
    assert node.counts.from_log == 2


async def test_a_database_that_is_away_does_not_end_the_catching_up(
    make_node: MakeNode, log: Log, database: Database
) -> None:
    events = FailingEvents(database)
    node = await make_node(socket_catch_up_seconds=0.1, parts={"events": events})
    user = await log.user()
    payment = await log.transaction(user)
    async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
        await receive(socket)
        events.away, events.asked = True, 0
        await log.write(payment)
        await log.tell(payment)
        await until(lambda: events.asked >= 2)
        assert await nothing_comes(socket, 0.05)
        events.away = False
        assert await receive_until(socket, 3) == [2, 3]


# Users


async def test_a_users_socket_tells_of_all_that_is_his(node: Node, log: Log) -> None:
    user, other = await log.user(), await log.user()
    payment, foreign = await log.transaction(user), await log.transaction(other)
    last = await log.write(payment)
    async with node.socket(f"/ws/user/{user}", node.people.token(user)) as socket:
        snapshot = await receive(socket)
        told = await log.tell(payment, "processing")
        await log.tell(foreign)
        login = await log.user_event(user)
        frames = [await receive(socket), await receive(socket)]
        assert await nothing_comes(socket)
    assert snapshot["type"] == "snapshot"
    assert snapshot["user_id"] == str(user)
    assert snapshot["data"] == {"last_event_id": str(last.id)}
    assert [frame["event_id"] for frame in frames] == [str(told.id), str(login.id)]
    assert (frames[1]["transaction_id"], frames[1]["sequence"]) == (None, None)


async def test_a_users_socket_catches_up_with_what_redis_lost_and_repeats_nothing(
    make_node: MakeNode, log: Log
) -> None:
    node = await make_node(socket_catch_up_seconds=0.1)
    user = await log.user()
    await log.user_event(user, publish=False)
    async with node.socket(f"/ws/user/{user}", node.people.token(user)) as socket:
        await receive(socket)
        told = await log.user_event(user)
        assert (await receive(socket))["event_id"] == str(told.id)
        lost = await log.user_event(user, publish=False)
        assert (await receive(socket))["event_id"] == str(lost.id)
        # Its id was made twenty seconds before its transaction was committed.
        slow = await log.user_event(user, event_id=_id_at(datetime.now(UTC) - timedelta(seconds=20)), publish=False)
        assert (await receive(socket))["event_id"] == str(slow.id)
        assert await nothing_comes(socket, 0.4)


async def test_a_users_replay_reaches_back_over_the_overlap_and_misses_nothing(node: Node, log: Log) -> None:
    user = await log.user()
    now = datetime.now(UTC)
    ages = (300, 45, 20, 10, 5)
    events = [await log.user_event(user, event_id=_id_at(now - timedelta(seconds=age)), publish=False) for age in ages]
    expected = [str(event.id) for event in events]
    async with node.socket(f"/ws/user/{user}?after={expected[3]}", node.people.token(user)) as socket:
        await receive(socket)
        replayed = [(await receive(socket))["event_id"] for _ in range(3)]
        assert await nothing_comes(socket)
        live = await log.user_event(user)
        assert (await receive(socket))["event_id"] == str(live.id)
    assert replayed == expected[2:]


async def test_a_users_replay_that_races_with_new_events_misses_none(node: Node, log: Log) -> None:
    user = await log.user()
    start = await log.user_event(user)
    path, token = f"/ws/user/{user}?after={start.id}", node.people.token(user)
    written: list[str] = []

    async def go_on() -> None:
        for _ in range(100):
            written.append(str((await log.user_event(user)).id))

    writing = asyncio.create_task(go_on())
    await asyncio.sleep(0.02)
    async with node.socket(path, token) as socket:
        await writing
        await receive(socket)
        got: list[str] = []
        async with asyncio.timeout(30):
            while not set(written) <= set(got):
                # One that the log gave may come again from Redis, with the same id.
                got.append((await receive(socket))["event_id"])


async def test_what_happens_between_a_users_replay_and_live_comes_once(
    make_node: MakeNode, log: Log, database: Database
) -> None:
    reads = BusyReads(database)
    node = await make_node(parts={"reads": reads})
    user = await log.user()
    start = await log.user_event(user)
    written: list[str] = []

    async def happens() -> None:
        written.append(str((await log.user_event(user)).id))
        await asyncio.sleep(0.05)  # until the hub has it

    reads.happens = happens
    async with node.socket(f"/ws/user/{user}?after={start.id}", node.people.token(user)) as socket:
        await receive(socket)
        got = [(await receive(socket))["event_id"] for _ in range(5)]
        assert await nothing_comes(socket)
    assert got == [str(start.id), *written]


@pytest.mark.parametrize("after", ["7", "00000000-0000-4000-8000-000000000000"])
async def test_an_after_that_is_no_event_id_is_refused(node: Node, log: Log, after: str) -> None:
    user = await log.user()
    async with node.socket(f"/ws/user/{user}?after={after}", node.people.token(user)) as socket:
        await socket.wait_closed()
    assert socket.close_code == 4400


# Redis comes and goes


@pytest.mark.parametrize("how", ["stopped", "hanging", "cut off"])
async def test_no_event_is_missed_while_redis_is_away(make_node: MakeNode, log: Log, how: str) -> None:
    async with PrivateRedis() as server:
        client = connect_redis(server.url, timeout_seconds=0.2)
        node = await make_node(redis_url=server.url, own_redis=client, socket_catch_up_seconds=0.3)
        log.publisher = EventPublisher(client, node.settings.redis_prefix)
        user = await log.user()
        payment = await log.transaction(user)
        await until(lambda: node.hub.hears_redis)
        token = node.people.token(user)
        async with (
            node.socket(f"/ws/transaction/{payment}", token) as socket,
            node.socket(f"/ws/user/{user}", token) as of_user,
        ):
            await receive(socket)
            await receive(of_user)
            await log.tell(payment)
            assert (await receive(socket))["sequence"] == 2
            await _take_away(server, how)
            written = [await log.write(payment) for _ in range(3)]
            assert await receive_until(socket, 5) == [3, 4, 5]
            if how != "cut off":
                await until(lambda: not node.hub.hears_redis)
                # Somebody who comes meanwhile is served from the log alone.
                async with node.socket(f"/ws/transaction/{payment}?after=2", token) as late:
                    assert sequences([await receive(late) for _ in range(4)]) == [5, 3, 4, 5]
            await _bring_back(server, how)
            await until(lambda: node.hub.hears_redis, 10)
            events = [await log.tell(payment) for _ in range(3)]
            assert await receive_until(socket, 8) == [6, 7, 8]
            seen = {(await receive(of_user))["sequence"] for _ in range(7)}
            assert seen == set(range(2, 9))
            assert len({event.id for event in (*written, *events)}) == 6
        await _close(client)


async def test_the_snapshot_waits_for_the_subscription_but_not_for_ever(make_node: MakeNode, log: Log) -> None:
    async with PrivateRedis() as server:
        client = connect_redis(server.url, timeout_seconds=0.2)
        node = await make_node(redis_url=server.url, own_redis=client, parts={"ping_seconds": 30.0})
        user = await log.user()
        payment = await log.transaction(user)
        await until(lambda: node.hub.hears_redis)
        await _take_away(server, "hanging")
        async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
            assert await nothing_comes(socket, 0.5)
            assert (await receive(socket, 3))["type"] == "snapshot"
        await _bring_back(server, "hanging")
        async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
            assert (await receive(socket, 0.5))["type"] == "snapshot"
        await _close(client)


async def test_live_frames_come_through_redis_again_after_a_restart(make_node: MakeNode, log: Log) -> None:
    async with PrivateRedis() as server:
        client = connect_redis(server.url, timeout_seconds=0.2)
        node = await make_node(redis_url=server.url, own_redis=client)
        log.publisher = EventPublisher(client, node.settings.redis_prefix)
        user = await log.user()
        payment = await log.transaction(user)
        async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
            await receive(socket)
            await asyncio.to_thread(server.kill)
            await until(lambda: not node.hub.hears_redis)
            lost = await log.tell(payment)
            assert await nothing_comes(socket)
            await asyncio.to_thread(server.start)
            # Nobody waits sixty seconds for the next look: a fresh connection asks for what was lost before it.
            assert (await receive(socket))["event_id"] == str(lost.id)
            assert node.counts.from_log == 1
            # A publisher rests a while after a failure; another has nothing to rest from.
            log.publisher = EventPublisher(client, node.settings.redis_prefix)
            await log.tell(payment)
            assert (await receive(socket))["sequence"] == 3
            assert node.counts.from_log == 1
        await _close(client)


async def _take_away(server: PrivateRedis, how: str) -> None:
    match how:
        case "stopped":
            await asyncio.to_thread(server.stop)
        case "hanging":
            assert server.pid is not None
            os.kill(server.pid, signal.SIGSTOP)
        case "cut off":
            client: Any = connect_redis(server.url)
            await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await _close(client)


async def _bring_back(server: PrivateRedis, how: str) -> None:
    match how:
        case "stopped":
            await asyncio.to_thread(server.start)
        case "hanging":
            assert server.pid is not None
            os.kill(server.pid, signal.SIGCONT)


async def _close(client: Redis) -> None:
    await client.aclose()
    await client.connection_pool.disconnect()


def _id_at(moment: datetime) -> UUID:
    return UUID(int=first_id_at(moment).int | (uuid7().int & ((1 << 80) - 1)))
