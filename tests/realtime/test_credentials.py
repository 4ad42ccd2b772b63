"""Who gets a socket, by which credential, and how long it lasts."""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson
import pytest

from payflow.core.errors import Forbidden
from payflow.core.ids import uuid7
from payflow.core.settings import Settings
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.infra.database import Database
from payflow.infra.redis import connect_redis
from payflow.realtime.access import Access, authorise_transaction
from payflow.realtime.repository import Watched
from tests.realtime.conftest import MakeNode
from tests.realtime.harness import CLIENT_TOKENS, Log, MovableClock, Node, close_of, nothing_comes, receive, until

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def auth(token: str) -> str:
    return orjson.dumps({"type": "auth", "token": token}).decode()


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_a_bearer_token_opens_the_socket_under_both_prefixes(node: Node, log: Log, prefix: str) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    async with node.socket(f"{prefix}/ws/transaction/{payment}", node.people.token(user)) as socket:
        snapshot = await receive(socket)
    assert snapshot["type"] == "snapshot"
    assert snapshot["transaction_id"] == str(payment)


async def test_an_api_key_header_opens_the_socket(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    headers = {"X-API-Key": node.people.token(user, kind="api_key")}
    async with node.socket(f"/ws/transaction/{payment}", headers=headers) as socket:
        assert (await receive(socket))["type"] == "snapshot"


async def test_a_first_message_opens_the_socket(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    async with node.socket(f"/ws/transaction/{payment}") as socket:
        await socket.send(auth(node.people.token(user)))
        assert (await receive(socket))["type"] == "snapshot"


async def test_an_admin_watches_what_is_anybodys(node: Node, log: Log) -> None:
    owner = await log.user()
    payment = await log.transaction(owner)
    admin = node.people.token(await log.user(), role="admin")
    async with node.socket(f"/ws/transaction/{payment}", admin) as socket:
        assert (await receive(socket))["type"] == "snapshot"
    async with node.socket(f"/ws/user/{owner}", admin) as socket:
        assert (await receive(socket))["user_id"] == str(owner)
    async with node.socket(f"/ws/user/{uuid7()}", admin) as socket:
        assert await close_of(socket) == (4404, "not_found")


async def test_what_is_unknown_and_what_is_anothers_are_refused_alike(node: Node, log: Log) -> None:
    stranger, owner = await log.user(), await log.user()
    payment = await log.transaction(owner)
    token = node.people.token(stranger)
    for path in (
        f"/ws/transaction/{payment}",
        f"/ws/transaction/{uuid7()}",
        "/ws/transaction/no-id",
        f"/ws/user/{owner}",
    ):
        async with node.socket(path, token) as socket:
            assert await close_of(socket) == (4404, "not_found"), path
    assert node.hub.channels == 0


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer nonsense"}, {"Authorization": "Basic dTpw"}])
async def test_a_bad_header_is_refused(node: Node, log: Log, headers: dict[str, str]) -> None:
    payment = await log.transaction(await log.user())
    async with node.socket(f"/ws/transaction/{payment}", headers=headers) as socket:
        assert await close_of(socket) == (4401, "invalid_token")


@pytest.mark.parametrize(
    "first", ['{"type":"auth","token":"nonsense"}', '{"type":"ping"}', '{"type":"auth","token":7}']
)
async def test_a_first_message_that_proves_nothing_is_refused(node: Node, log: Log, first: str) -> None:
    payment = await log.transaction(await log.user())
    async with node.socket(f"/ws/transaction/{payment}") as socket:
        await socket.send(first)
        code, _ = await close_of(socket)
    assert code == 4401


async def test_a_cookie_is_no_credential_and_silence_times_out(make_node: MakeNode, log: Log) -> None:
    node = await make_node(socket_auth_seconds=0.2)
    user = await log.user()
    payment = await log.transaction(user)
    token = node.people.token(user)
    headers = {"Cookie": f"access_token={token}; Authorization=Bearer {token}"}
    async with node.socket(f"/ws/transaction/{payment}", headers=headers) as socket:
        assert await close_of(socket) == (4408, "auth_timeout")


async def test_an_api_key_without_the_scope_is_refused(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    key = node.people.token(user, kind="api_key", scopes=frozenset({"wallet:read"}))
    for path in (f"/ws/transaction/{payment}", f"/ws/user/{user}"):
        async with node.socket(path, key) as socket:
            assert await close_of(socket) == (4403, "insufficient_scope")


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        ("https://evil.example", 4403),
        ("null", 4403),
        ("https://pay.example", None),
        ("https://shop.example", None),
        ("https://app.example", None),
        ("same host", None),
    ],
)
async def test_only_pages_of_known_origins_get_in(make_node: MakeNode, log: Log, origin: str, code: int | None) -> None:
    node = await make_node(cors_origins=("https://shop.example",), allowed_origins=("https://app.example",))
    user = await log.user()
    payment = await log.transaction(user)
    given = f"http://127.0.0.1:{node.port}" if origin == "same host" else origin
    async with node.socket(f"/ws/transaction/{payment}", node.people.token(user), origin=given) as socket:
        if code is None:
            assert (await receive(socket))["type"] == "snapshot"
        else:
            assert await close_of(socket) == (code, "origin_not_allowed")


# Tickets


async def test_a_ticket_opens_one_socket_of_its_channel(node: Node, log: Log) -> None:
    user = await log.user()
    payment, other = await log.transaction(user), await log.transaction(user)
    token = node.people.token(user)
    answer = await node.ticket(token, f"transaction:{payment}")
    assert answer.status_code == 201
    assert answer.json().keys() == {"ticket", "expires_in"}
    assert answer.json()["expires_in"] == 60
    ticket = answer.json()["ticket"]
    async with node.socket(f"/ws/transaction/{payment}?ticket={ticket}") as socket:
        assert (await receive(socket))["transaction_id"] == str(payment)
    async with node.socket(f"/ws/transaction/{payment}?ticket={ticket}") as socket:
        assert await close_of(socket) == (4401, "invalid_ticket")
    ticket = (await node.ticket(token, f"transaction:{payment}")).json()["ticket"]
    async with node.socket(f"/ws/transaction/{other}?ticket={ticket}") as socket:
        assert await close_of(socket) == (4401, "invalid_ticket")
    ticket = (await node.ticket(token, f"user:{user}")).json()["ticket"]
    async with node.socket(f"/ws/user/{user}?ticket={ticket}") as socket:
        assert (await receive(socket))["user_id"] == str(user)


async def test_a_ticket_expires(make_node: MakeNode, log: Log) -> None:
    node = await make_node(ticket_seconds=1)
    user = await log.user()
    payment = await log.transaction(user)
    ticket = (await node.ticket(node.people.token(user), f"transaction:{payment}")).json()["ticket"]
    await asyncio.sleep(1.1)
    async with node.socket(f"/ws/transaction/{payment}?ticket={ticket}") as socket:
        assert await close_of(socket) == (4401, "invalid_ticket")


async def test_a_ticket_ends_with_the_credential_it_was_made_with(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    token = node.people.token(user)
    first, second = [(await node.ticket(token, f"transaction:{payment}")).json()["ticket"] for _ in range(2)]
    async with node.socket(f"/ws/transaction/{payment}?ticket={first}") as socket:
        await receive(socket)
        node.people.revoke(token)
        assert await close_of(socket) == (4401, "token_revoked")
    async with node.socket(f"/ws/transaction/{payment}?ticket={second}") as socket:
        assert await close_of(socket) == (4401, "token_expired")


async def test_nobody_gets_a_ticket_for_what_is_anothers(node: Node, log: Log) -> None:
    owner, stranger = await log.user(), await log.user()
    payment = await log.transaction(owner)
    token = node.people.token(stranger)
    for channel in (f"transaction:{payment}", f"transaction:{uuid7()}", f"user:{owner}"):
        assert (await node.ticket(token, channel)).status_code == 404
    assert (await node.ticket(token, "anything")).status_code == 422
    assert (await node.ticket("nonsense", f"user:{stranger}")).status_code == 401


async def test_without_redis_there_are_no_tickets_but_headers_still_do(make_node: MakeNode, log: Log) -> None:
    nowhere = connect_redis("redis://127.0.0.1:1/0")
    node = await make_node(own_redis=nowhere)
    user = await log.user()
    payment = await log.transaction(user)
    token = node.people.token(user)
    answer = await node.ticket(token, f"transaction:{payment}")
    assert answer.status_code == 503
    assert answer.json()["code"] == "unavailable"
    async with node.socket(f"/ws/transaction/{payment}?ticket=any") as socket:
        assert await close_of(socket) == (1013, "unavailable")
    async with node.socket(f"/ws/transaction/{payment}", token) as socket:
        assert (await receive(socket))["type"] == "snapshot"


# Client tokens


async def test_the_customer_sees_status_amount_and_next_action_only(node: Node, log: Log) -> None:
    action = {"type": "redirect", "url": "https://provider.example/pay"}
    user = await log.user()
    payment = await log.transaction(user, action)
    await log.write(payment, "processing", provider="paystack", failure_code="x")
    async with node.socket(f"/ws/transaction/{payment}?after=1") as customer:
        await customer.send(auth(CLIENT_TOKENS.mint(payment)))
        snapshot, replayed = await receive(customer), await receive(customer)
        async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as owner:
            whole = await receive(owner)
            await log.tell(payment, "completed", provider="paystack", next_action=None, receipt="r")
            live, live_whole = await receive(customer), await receive(owner)
    assert snapshot["status"] == "processing"
    assert snapshot["data"] == {
        "amount": "5000.00",
        "amount_minor": 500_000,
        "currency": "NGN",
        "next_action": action,
    }
    assert replayed["data"] == {"amount": "5000.00", "amount_minor": 500_000, "currency": "NGN"}
    assert live["status"] == "completed"
    assert live["data"].keys() == {"amount", "amount_minor", "currency", "next_action"}
    assert whole["data"]["provider"] == "paystack"
    assert live_whole["data"]["receipt"] == "r"
    assert live_whole.keys() == live.keys()


async def test_a_client_token_is_of_one_transaction(node: Node, log: Log) -> None:
    user = await log.user()
    payment, other = await log.transaction(user), await log.transaction(user)
    token = CLIENT_TOKENS.mint(payment)
    for path in (f"/ws/transaction/{other}", f"/ws/user/{user}"):
        async with node.socket(path, token) as socket:
            assert (await close_of(socket))[0] == 4404
    for forged in (token[:-3] + "AAA", CLIENT_TOKENS.mint(uuid7())):
        async with node.socket(f"/ws/transaction/{payment}", forged) as socket:
            assert await close_of(socket) == (4401, "invalid_token")


async def test_a_client_token_ends_an_hour_after_the_transaction(node: Node, log: Log, clock: MovableClock) -> None:
    payment = await log.transaction(await log.user())
    token = CLIENT_TOKENS.mint(payment)
    async with node.socket(f"/ws/transaction/{payment}", token) as socket:
        await receive(socket)
        clock.advance(7_200)
        assert await nothing_comes(socket)
        clock.advance(-7_200)
        await log.tell(payment, "completed")
        assert (await receive(socket))["status"] == "completed"
        clock.advance(3_500)
        assert await nothing_comes(socket)
        clock.advance(200)
        assert await close_of(socket) == (4401, "token_expired")
    async with node.socket(f"/ws/transaction/{payment}", token) as socket:
        assert await close_of(socket) == (4401, "token_expired")


# The end of a credential


async def test_a_revoked_credential_closes_its_sockets_and_no_others(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    ended, other = node.people.token(user), node.people.token(user)
    async with (
        node.socket(f"/ws/transaction/{payment}", ended) as first,
        node.socket(f"/ws/user/{user}", ended) as second,
        node.socket(f"/ws/transaction/{payment}", other) as third,
    ):
        for socket in (first, second, third):
            await receive(socket)
        node.people.revoke(ended)
        assert await close_of(first) == (4401, "token_revoked")
        assert await close_of(second) == (4401, "token_revoked")
        await log.tell(payment)
        assert (await receive(third))["sequence"] == 2


async def test_a_socket_ends_with_its_token_unless_renewed_in_band(node: Node, log: Log, clock: MovableClock) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    token = node.people.token(user)
    async with (
        node.socket(f"/ws/transaction/{payment}", token) as renewed,
        node.socket(f"/ws/transaction/{payment}", token) as left,
    ):
        await receive(renewed)
        await receive(left)
        clock.advance(600)
        await renewed.send(auth(node.people.token(user)))
        answer = await receive(renewed)
        assert answer.keys() == {"type", "expires_at"}
        assert answer["type"] == "authenticated"
        clock.advance(400)
        assert await close_of(left) == (4401, "token_expired")
        await log.tell(payment)
        assert (await receive(renewed))["sequence"] == 2
        clock.advance(600)
        assert await close_of(renewed) == (4401, "token_expired")


async def test_a_renewal_that_proves_nothing_or_somebody_else_changes_nothing(node: Node, log: Log) -> None:
    user = await log.user()
    payment = await log.transaction(user)
    weaker = node.people.token(user, kind="api_key", scopes=frozenset({"wallet:read"}))
    cases = {
        "nonsense": "invalid_token",
        node.people.token(await log.user(), role="admin"): "other_holder",
        CLIENT_TOKENS.mint(payment): "other_holder",
        weaker: "insufficient_scope",
    }
    async with node.socket(f"/ws/transaction/{payment}", node.people.token(user)) as socket:
        await receive(socket)
        for token, code in cases.items():
            await socket.send(auth(token))
            answer = await receive(socket)
            assert (answer["type"], answer["code"]) == ("error", code)
        await log.tell(payment)
        assert (await receive(socket))["sequence"] == 2


# Caps


async def test_sockets_without_a_credential_are_capped_by_address(make_node: MakeNode, log: Log) -> None:
    node = await make_node(sockets_unauthenticated_per_address=2)
    user = await log.user()
    payment = await log.transaction(user)
    path, token = f"/ws/transaction/{payment}", node.people.token(user)
    async with node.socket(path) as first, node.socket(path):
        await until(lambda: node.service.sockets == 2)
        async with node.socket(path) as third:
            assert await close_of(third) == (4429, "too_many_unauthenticated")
        async with node.socket(path, token) as known:
            assert (await receive(known))["type"] == "snapshot"
        await first.send(auth(token))
        assert (await receive(first))["type"] == "snapshot"
        async with node.socket(path) as fourth:
            await fourth.send(auth(token))
            assert (await receive(fourth))["type"] == "snapshot"


async def test_sockets_of_a_user_are_capped(make_node: MakeNode, log: Log) -> None:
    node = await make_node(sockets_per_user=1)
    user = await log.user()
    payment = await log.transaction(user)
    path, token = f"/ws/transaction/{payment}", node.people.token(user)
    async with node.socket(path, token) as first:
        await receive(first)
        async with node.socket(f"/ws/user/{user}", node.people.token(user)) as second:
            assert await close_of(second) == (4429, "too_many_sockets")
        async with node.socket(path, CLIENT_TOKENS.mint(payment)) as customer:
            assert (await receive(customer))["type"] == "snapshot"
    await until(lambda: node.service.sockets == 0)
    async with node.socket(path, token) as again:
        assert (await receive(again))["type"] == "snapshot"


# With the identity room itself


async def test_real_tokens_and_keys_open_sockets_and_close_them(
    make_node: MakeNode, log: Log, database: Database
) -> None:
    settings = Settings(_env_file=None, environment="test")
    identity: Any = IdentityService(database, settings, password_cost=(64, 1, 1))
    node = await make_node(parts={"people": identity})
    address = f"{uuid7()}@example.test"
    user = await identity.register(address, "correct horse battery", "Someone")
    tokens = await identity.login(address, "correct horse battery")
    principal = await identity.authenticate_token(tokens.access_token)
    key, key_text = await identity.create_api_key(principal, "sockets")
    payment = await log.transaction(user.id)
    path = f"/ws/transaction/{payment}"
    async with node.socket(path, tokens.access_token) as by_token, node.socket(path) as by_key:
        await by_key.send(auth(key_text))
        assert (await receive(by_token))["type"] == "snapshot"
        assert (await receive(by_key))["type"] == "snapshot"
        await identity.logout(refresh_token=tokens.refresh_token)
        assert await close_of(by_token) == (4401, "token_revoked")
        await identity.revoke_api_key(principal, key.id)
        assert await close_of(by_key, 8) == (4401, "token_revoked")
    identity.close()


@pytest.mark.parametrize(
    ("scope", "kinds"),
    [
        ("payments:read", ["payment", "funding"]),
        ("wallet:read", ["funding", "withdrawal", "airtime"]),
        ("events:read", []),
    ],
)
def test_what_a_key_may_watch_goes_by_where_the_money_moves(scope: str, kinds: list[str]) -> None:
    key = Principal(uuid4(), "api_key", "user", frozenset({scope}), uuid4())
    seen = []
    for kind in ("payment", "funding", "withdrawal", "airtime"):
        watched = Watched(
            uuid4(), key.id, kind, "ref", "pending", 1, 100, "NGN", None, None, None, None, None, NOW, None
        )
        with contextlib.suppress(Forbidden):
            seen.append(authorise_transaction(Access(key), watched.id, watched).kind)
    assert seen == kinds
