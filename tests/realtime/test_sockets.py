"""One socket's manners: its messages, a client that does not read, the end of the node."""

import asyncio
import socket as sockets

import pytest
from websockets.exceptions import ConnectionClosed

from payflow.core.ids import uuid7
from payflow.infra.redis import Redis
from tests.realtime.conftest import MakeNode
from tests.realtime.harness import Log, Node, close_of, receive, receive_until, until


async def test_ping_is_answered_and_the_unknown_is_an_error_and_neither_ends_the_socket(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
        await receive(socket)
        await socket.send('{"type":"ping"}')
        assert await receive(socket) == {"type": "pong"}
        for unknown in ('{"type":"subscribe"}', "{}", '{"type":"auth"}', '{"type":["ping"]}'):
            await socket.send(unknown)
            assert (await receive(socket))["code"] == "unknown_message"
        for broken in ("ping", "[]", b'{"type":"ping"}', ""):
            await socket.send(broken)
            answer = await receive(socket)
            assert answer.keys() == {"type", "code", "detail"}
            assert answer["code"] == "malformed_message"
        await log.tell(payment)
        assert (await receive(socket))["sequence"] == 2


async def test_a_message_that_is_too_long_ends_the_socket(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    for token in (node.people.token(user), None):
        async with node.socket(f"/ws/transaction/{payment}", token) as socket:
            await socket.send('{"type":"ping","x":"' + "x" * 9_000 + '"}')
            assert await close_of(socket) == (1009, "message_too_long")


async def test_a_client_that_talks_too_much_is_closed(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
        await receive(socket)
        for _ in range(40):
            try:
                await socket.send('{"type":"ping"}')
            except ConnectionClosed:
                break
        assert await close_of(socket) == (4429, "too_many_messages")


async def test_a_client_that_does_not_read_is_closed_and_holds_up_nobody(make_node: MakeNode, log: Log) -> None:
    node = await make_node(socket_queue_size=8)
    user = await log.user()
    payment = await log.transaction(user)
    path, token = f"/ws/transaction/{payment}", node.people.token(user)
    deaf = sockets.socket()
    deaf.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    deaf.setblocking(False)
    await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", node.port))
    async with (
        node.socket(path, token) as quick,
        node.socket(path, token, sock=deaf, max_queue=1, ping_interval=None) as slow,
    ):
        await receive(quick)
        await receive(slow)
        text = "x" * 200_000
        sequence = 1
        async with asyncio.timeout(20):
            while not node.counts.slow:
                sequence += 1
                await log.tell(payment, padding=text)
                assert (await receive(quick))["sequence"] == sequence
        assert await close_of(slow, 10) == (4008, "slow_client")
        await log.tell(payment)
        assert (await receive(quick))["sequence"] == sequence + 1
    assert node.counts.slow == 1


async def test_a_burst_larger_than_the_queue_does_not_close_a_client_that_reads(make_node: MakeNode, log: Log) -> None:
    node = await make_node(socket_queue_size=16, socket_catch_up_seconds=0.3)
    user = await log.user()
    payment = await log.transaction(user)
    async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
        await receive(socket)
        await log.publisher.publish([await log.write(payment) for _ in range(150)])
        assert await receive_until(socket, 151) == list(range(2, 152))
        for _ in range(150):
            await log.write(payment)
        assert await receive_until(socket, 301) == list(range(152, 302))


async def test_shutdown_closes_every_socket_with_1012(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    token = node.people.token(user)
    async with (
        node.socket(f"/ws/transaction/{payment}", token) as first,
        node.socket(f"/ws/user/{user}", token) as second,
        node.socket(f"/ws/user/{user}") as without_credential,
    ):
        await receive(first)
        await receive(second)
        await until(lambda: node.service.sockets == 3)
        await node.service.close()
        for socket in (first, second, without_credential):
            assert await close_of(socket) == (1012, "shutdown")
    assert node.service.sockets == 0
    await node.service.start()
    async with node.socket(f"/ws/user/{user}", token) as late:
        assert await close_of(late) == (1012, "shutdown")


async def test_a_channel_is_subscribed_while_somebody_watches_and_no_longer(node: Node, log: Log, redis: Redis) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    channel = f"{node.settings.redis_prefix}tx:{payment}".encode()
    path, token = f"/ws/transaction/{payment}", node.people.token(user)

    async def subscribers() -> int:
        return int((await redis.pubsub_numsub(channel))[0][1])

    async def nobody() -> bool:
        return await subscribers() == 0

    assert await subscribers() == 0
    async with node.socket(path, token) as first:
        await receive(first)
        assert await subscribers() == 1
        async with node.socket(path, token) as second:
            await receive(second)
            assert node.hub.channels == 1
        await until(lambda: node.service.sockets == 1)
        await log.tell(payment)
        assert (await receive(first))["sequence"] == 2
    await until(nobody)
    assert node.hub.channels == 0
    async with node.socket(path, token) as again:
        assert (await receive(again))["sequence"] == 2
        await log.tell(payment)
        assert (await receive(again))["sequence"] == 3


async def test_many_coming_and_going_at_once_leave_nothing_behind(node: Node, log: Log) -> None:
    user = await log.user()
    payments = [await log.transaction(user) for _ in range(5)]
    token = node.people.token(user)

    async def come_and_go(number: int) -> None:
        async with node.socket(f"/ws/transaction/{payments[number % 5]}", token) as socket:
            if number % 3:
                await receive(socket)
        # The last of every three leaves without ever having read.

    await asyncio.gather(*(come_and_go(number) for number in range(60)))
    await until(lambda: node.service.sockets == 0)
    assert node.hub.channels == 0
    assert node.counts.open == {"transaction": 0, "user": 0}
    async with node.socket(f"/ws/transaction/{payments[0]}", token) as socket:
        await receive(socket)
        await log.tell(payments[0])
        assert (await receive(socket))["sequence"] == 2


async def test_what_is_counted(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    token = node.people.token(user)
    async with (
        node.socket(f"/ws/transaction/{payment}", token) as first,
        node.socket(f"/ws/user/{user}", token) as second,
    ):
        await receive(first)
        await receive(second)
        assert node.counts.open == {"transaction": 1, "user": 1}
        await log.tell(payment)
        await receive(first)
        await receive(second)
    await until(lambda: node.service.sockets == 0)
    assert node.counts.open == {"transaction": 0, "user": 0}
    assert node.counts.frames == 4
    assert node.counts.from_log == 0


@pytest.mark.parametrize("path", ["/ws/transaction/", "/ws/nothing/1"])
async def test_other_paths_are_no_sockets(node: Node, path: str) -> None:
    with pytest.raises(Exception, match="403"):
        async with node.socket(path, node.people.token(uuid7())):
            pass
