"""What a socket tells of wallets: one movement on `/ws/wallet`, everything of a user on `/ws/user/{id}`."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from tests.house import House, Merchant, eventually
from tests.realtime.harness import close_of, receive
from tests.wallets.conftest import fund, start_funding

Open = Callable[..., connect]


@pytest.fixture(scope="module")
async def open_socket(shop: House) -> AsyncIterator[Open]:
    """Sockets to the house on a real port."""
    config = uvicorn.Config(shop.app, port=0, ws_per_message_deflate=False, lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]

    def opened(path: str, merchant: Merchant | None = None, key: str | None = None) -> connect:
        headers = {"authorization": merchant.client.headers["authorization"]} if merchant else {}
        headers |= {"x-api-key": key} if key else {}
        return connect(f"ws://127.0.0.1:{port}{path}", additional_headers=headers, compression=None, proxy=None)

    yield opened
    await server.shutdown()


async def name(socket: ClientConnection, reference: Any) -> None:
    await socket.send(orjson.dumps({"tx_ref": reference}).decode())


async def types_until(socket: ClientConnection, last: str) -> list[str]:
    seen: list[str] = []
    while last not in seen:
        seen.append((await receive(socket, 15))["type"])
    return seen


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_the_first_message_joins_a_funding_of_the_caller(
    shop: House, ada: Merchant, open_socket: Open, prefix: str
) -> None:
    await shop.outcome("paystack", "silent", times=1)
    funding = await start_funding(ada)
    async with open_socket(f"{prefix}/ws/wallet", ada) as socket:
        await name(socket, funding["reference"])
        snapshot = await receive(socket)
        assert (snapshot["type"], snapshot["transaction_id"]) == ("snapshot", funding["id"])
        assert snapshot["data"]["kind"] == "funding"
        whole = await ada.payment(funding["id"])
        assert (await shop.act("paystack", whole["attempts"][0]["reference"], "pay")).is_success
        assert set(await types_until(socket, "wallet.credited")) <= {"payment.completed", "wallet.credited"}


async def test_the_credential_may_come_first_as_a_message(ada: Merchant, open_socket: Open) -> None:
    funding = await start_funding(ada)
    async with open_socket("/ws/wallet") as socket:
        await socket.send(orjson.dumps({"type": "auth", "token": ada.tokens["access_token"]}).decode())
        await name(socket, funding["reference"])
        assert (await receive(socket))["transaction_id"] == funding["id"]


async def test_what_was_missed_is_replayed(shop: House, ada: Merchant, open_socket: Open) -> None:
    funding = await fund(shop, ada)
    async with open_socket("/ws/wallet?after=1", ada) as socket:
        await name(socket, funding["reference"])
        assert (await receive(socket))["sequence"] == funding["version"]
        seen = [await receive(socket) for _ in range(funding["version"] - 1)]
        assert [frame["sequence"] for frame in seen] == list(range(2, funding["version"] + 1))
        assert "wallet.credited" in [frame["type"] for frame in seen]


async def test_what_is_not_the_callers_is_not_there(shop: House, ada: Merchant, open_socket: Open) -> None:
    funding, payment = await start_funding(ada), await ada.pay()
    bert = await shop.merchant()
    for caller, reference in (
        (bert, funding["reference"]),
        (ada, payment["reference"]),  # a payment is no movement of a wallet
        (ada, "pay" + "0" * 26),
        (ada, "\x00"),
        (ada, ""),
    ):
        async with open_socket("/ws/wallet", caller) as socket:
            await name(socket, reference)
            assert (await close_of(socket))[0] == 4404, reference


async def test_a_key_that_reads_wallets_watches_them_and_no_payments(ada: Merchant, open_socket: Open) -> None:
    funding, payment = await start_funding(ada), await ada.pay()

    async def key_with(*scopes: str) -> str:
        made = await ada.post("/auth/api-keys", json={"name": "a key", "scopes": scopes})
        return str(made.json()["key"])

    wallet_key, other_key = await key_with("wallet:read"), await key_with("wallet:write", "providers:read")
    payments_key = await key_with("payments:read")
    async with open_socket("/ws/wallet", key=wallet_key) as socket:
        await name(socket, funding["reference"])
        assert (await receive(socket))["transaction_id"] == funding["id"]
    async with open_socket(f"/ws/transaction/{payment['id']}", key=wallet_key) as socket:
        assert await close_of(socket) == (4403, "insufficient_scope")
    async with open_socket("/ws/wallet", key=payments_key) as socket:
        await name(socket, funding["reference"])
        assert (await receive(socket))["transaction_id"] == funding["id"]
    async with open_socket("/ws/wallet", key=other_key) as socket:
        await name(socket, funding["reference"])
        assert await close_of(socket) == (4403, "insufficient_scope")


async def test_anything_else_than_a_reference_ends_the_socket(ada: Merchant, open_socket: Open) -> None:
    for message in ({"type": "ping"}, {"tx_ref": 7}, ["tx_ref"]):
        async with open_socket("/ws/wallet", ada) as socket:
            await socket.send(orjson.dumps(message).decode())
            assert (await close_of(socket))[0] == 4400, message


async def test_without_a_credential_nothing_is_named(shop: House, ada: Merchant, open_socket: Open) -> None:
    funding = await start_funding(ada)
    async with open_socket("/ws/wallet") as socket:
        await name(socket, funding["reference"])
        assert (await close_of(socket))[0] == 4401
    ticket = await ada.post("/realtime/tickets", json={"channel": f"transaction:{funding['id']}"})
    async with open_socket(f"/ws/wallet?ticket={ticket.json()['ticket']}") as socket:
        assert await close_of(socket) == (4401, "invalid_ticket")
    await eventually(lambda: shop.services.realtime.sockets == 0, what="the sockets' end")


async def test_who_names_nothing_is_closed(ada: Merchant, open_socket: Open) -> None:
    async with open_socket("/ws/wallet", ada) as socket:
        assert await close_of(socket, 10) == (4408, "auth_timeout")


async def test_wallet_events_come_on_the_users_socket(shop: House, ada: Merchant, open_socket: Open) -> None:
    admin = await shop.merchant(admin=True)
    async with open_socket(f"/ws/user/{ada.id}", ada) as socket:
        assert (await receive(socket))["type"] == "snapshot"
        await fund(shop, ada)
        assert "payment.initiated" in await types_until(socket, "wallet.credited")
        body = {"currency": "NGN", "frozen": True, "reason": "Reported as stolen."}
        await admin.post(f"/wallet/{ada.id}/freeze", json=body)
        with contextlib.suppress(TimeoutError):
            while (frame := await receive(socket))["type"] != "wallet.frozen":
                pass
        assert (frame["type"], frame["transaction_id"]) == ("wallet.frozen", None)
        assert frame["data"]["currency"] == "NGN"
        await admin.post(f"/wallet/{ada.id}/freeze", json={**body, "frozen": False})
        assert (await types_until(socket, "wallet.unfrozen"))[-1] == "wallet.unfrozen"
