"""The API on a real port of 127.0.0.1, and what its callers need there: logins, payments of every standing, dead letters.

Everything here is called from the thread that plays the client; the house lives on the event loop of the tests.
"""

import asyncio
import hmac
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import cached_property
from itertools import count, cycle
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import requests
import uvicorn

from payflow.cli.serving import EmbeddedServer, bind
from payflow.core.clock import rfc3339, utc_now
from payflow.core.crypto import derive_key
from payflow.core.ids import uuid7
from payflow.events.types import Origin
from payflow.gateway.contract import Result, Verdict
from payflow.gateway.signing import CallbackTokens
from payflow.infra.queue.port import WEBHOOKS, Message
from payflow.transactions.aggregate import Source
from payflow.transactions.service import Answer
from tests.airtime.desk import bought, fund
from tests.house import House, Merchant, Urls, eventually, running_house
from tests.payouts.till import began, fill, whole

Role = Literal["user", "admin"]
ROLES: tuple[Role, ...] = ("user", "admin")
POOL = 6
TO_APPROVE = "90000.00"

T = TypeVar("T")


class Stage:
    """What both roles share: the house, its address, and a way from the client's thread to the event loop."""

    def __init__(self, house: House, base_url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.house = house
        self.base_url = base_url
        self._loop = loop
        self._callers: dict[Role, Caller] = {}

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=60)

    def caller(self, role: Role) -> "Caller":
        if role not in self._callers:
            self._callers[role] = Caller(self, role)
        return self._callers[role]

    def close(self) -> None:
        for caller in self._callers.values():
            caller.session.close()


class Caller:
    """A user or an admin with a session of its own, and pools of things that are really there.

    Some of them can be used only once (a refresh token, a payment to decide): the pools go round, so that an operation
    meets both the fresh and the used.
    """

    def __init__(self, stage: Stage, role: Role) -> None:
        self.stage = stage
        self.role = role
        self.merchant: Merchant = stage.run(stage.house.merchant(admin=role == "admin"))
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.auth = self._sign
        self.statuses: dict[str, Counter[int]] = defaultdict(Counter)
        self.codes: dict[str, set[str]] = defaultdict(set)
        self.numbers = count(1)
        self._pools: dict[str, Iterator[Any]] = {}
        self.take("api_key")  # while there is room: a user has at most 50

    @property
    def token(self) -> str:
        return str(self.merchant.tokens["access_token"])

    @cached_property
    def credentials(self) -> dict[str, str]:
        return {"email": self.merchant.user["email"], "password": "correct horse battery"}

    def take(self, kind: str) -> Any:
        """The next of a pool that is made when it is first asked for."""
        if kind not in self._pools:
            make: Callable[[], Awaitable[Any]] = getattr(self, f"_{kind}")
            self._pools[kind] = cycle(self.stage.run(self._several(make)))
        return next(self._pools[kind])

    def another_login(self) -> dict[str, Any]:
        """Tokens of the same user that may be lost."""
        return self.stage.run(self._login())

    def give_back_credentials(self, provider: str) -> None:
        """Whatever was configured, the provider takes payments again."""
        admin = self.stage.caller("admin")
        answer = self.stage.run(
            admin.merchant.post(f"/providers/{provider}/config", json=self.provider_credentials(provider))
        )
        assert answer.status_code == 200, answer.text

    def resume(self, provider: str) -> None:
        """Whatever was drained takes payments again."""
        admin = self.stage.caller("admin")
        answer = self.stage.run(admin.merchant.post(f"/providers/{provider}/drain", json={"drained": False}))
        assert answer.status_code == 200, answer.text

    def provider_credentials(self, provider: str) -> dict[str, str]:
        values = self.stage.house.settings.provider_credentials[provider]
        return {name: value.get_secret_value() for name, value in values.items()}

    # -- the pools: each makes one ------------------------------------------------------------------------------------

    async def _several(self, make: Callable[[], Awaitable[Any]]) -> list[Any]:
        return [await make() for _ in range(POOL)]

    async def _payment(self) -> dict[str, Any]:
        """Every provider's in turn, paid."""
        provider = ("paystack", "stripe", "mpesa")[next(self.numbers) % 3]
        payment = await self.merchant.pay(provider)
        return await self.stage.house.until(self.merchant, payment["id"], "completed")

    async def _waiting_payment(self) -> dict[str, Any]:
        await self.stage.house.outcome("paystack", "silent", times=1)
        return await self.merchant.pay("paystack")

    async def _payment_waiting_for_otp(self) -> dict[str, Any]:
        await self.stage.house.outcome("cpay", "silent", times=1)
        return await self.merchant.pay("cpay", method="otp")

    async def _payment_waiting_for_older_otp(self) -> dict[str, Any]:
        return await self._payment_waiting_for_otp()

    async def _refund(self) -> dict[str, Any]:
        payment = await self.merchant.pay("stripe")
        await self.stage.house.until(self.merchant, payment["id"], "completed")
        answer = await self.merchant.post(
            f"/payments/{payment['id']}/refund", key=str(uuid7()), json={"amount": "1.00"}
        )
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def _refund_under_review(self) -> dict[str, Any]:
        """One whose provider never says how it ended; the wait for that is cut short."""
        payment = await self.merchant.pay("paystack")
        await self.stage.house.until(self.merchant, payment["id"], "completed")
        await self.stage.house.outcome("paystack", "silent", operation="refund", times=1)
        answer = await self.merchant.post(
            f"/payments/{payment['id']}/refund", key=str(uuid7()), json={"amount": "1.00"}
        )
        assert answer.status_code == 201, answer.text
        await self.stage.house.rows(
            "UPDATE refunds SET status = 'under_review' WHERE id = $1::uuid RETURNING id", answer.json()["id"]
        )
        return dict(answer.json())

    async def _payment_under_review(self) -> dict[str, Any]:
        await self.stage.house.outcome("paystack", "wrong_amount", times=1)
        payment = await self.merchant.pay("paystack")
        return await self.stage.house.until(self.merchant, payment["id"], "under_review")

    async def _withdrawal(self) -> dict[str, Any]:
        return await self._began(self.merchant)

    async def _own_withdrawal_to_approve(self) -> dict[str, Any]:
        return await self._began(self.merchant, amount=TO_APPROVE)

    async def _withdrawal_to_approve(self) -> dict[str, Any]:
        """Somebody else's, for who asks does not approve."""
        return await self._began(await self.stage.house.merchant(), amount=TO_APPROVE)

    async def _withdrawal_to_reject(self) -> dict[str, Any]:
        return await self._withdrawal_to_approve()

    async def _withdrawal_waiting_for_otp(self) -> dict[str, Any]:
        await self.stage.house.outcome("paystack", "needs_otp", operation="payout", times=1)
        return await self._began(self.merchant)

    async def _withdrawal_under_review(self) -> dict[str, Any]:
        """Reported as sent back before it was reported as sent."""
        await self.stage.house.outcome("paystack", "silent", operation="payout", times=1)
        withdrawal = await self._began(self.merchant)
        attempt = (await whole(self.merchant, withdrawal["id"]))["attempts"][0]
        answer = Answer(UUID(attempt["id"]), Result(Verdict.REVERSED), Source.QUERY, Origin())
        await self.stage.house.services.transactions.settle(answer)
        return withdrawal

    async def _began(self, merchant: Merchant, **changes: Any) -> dict[str, Any]:
        await fill(self.stage.house, merchant, 100_000_000)
        return await began(merchant, **changes)

    async def _callback_token(self) -> str:
        payment = await self.merchant.pay("mpesa")
        whole = await self.merchant.payment(payment["id"])
        secret = self.stage.house.settings.secret_key.get_secret_value()
        return CallbackTokens(derive_key(secret, "callback-token")).issue(UUID(whole["attempts"][0]["id"]))

    async def _dead_letter(self) -> str:
        """A webhook that nobody could read."""
        dead_letters = self.stage.house.services.dead_letters
        headers = {"provider": "paystack", "received_at": rfc3339(utc_now()), "correlation_id": "dead"}
        message = Message(str(uuid7()), b"not JSON", headers)
        await dead_letters.add(WEBHOOKS, message, "malformed: not JSON")
        page = await dead_letters.list(WEBHOOKS)
        return next(str(letter.id) for letter in page.items if letter.message.id == message.id)

    async def _stranger(self) -> str:
        """Somebody else's id."""
        return str((await self.stage.house.merchant()).id)

    async def _funded_wallet(self) -> str:
        await fund(self.stage.house, self.merchant, 1_000_000)
        return self.merchant.id

    async def _purchase(self) -> dict[str, Any]:
        await self._funded_wallet()
        return await bought(self.merchant, phone=f"+23481{next(self.numbers):08d}")

    async def _purchase_under_review(self) -> dict[str, Any]:
        await self.stage.house.outcome("vtpass", "wrong_amount", operation="purchase", times=1)
        return await self._purchase()

    async def _api_key(self) -> str:
        answer = await self.merchant.post("/auth/api-keys", json={"name": "to be revoked"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def _refresh_token(self) -> str:
        return str((await self._login())["refresh_token"])

    async def _login(self) -> dict[str, Any]:
        answer = await self.merchant.client.post("/api/v1/auth/login", json=self.credentials)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign what goes to Paystack's webhook as Paystack does, once the bytes are known."""
        if request.headers.pop("x-sign-me", None) and urlsplit(str(request.url)).path.endswith(
            ("/webhooks/paystack", "/webhooks/payment")
        ):
            body = request.body or b""
            raw = body.encode() if isinstance(body, str) else body
            secret = self.provider_credentials("paystack")["secret_key"].encode()
            request.headers["x-paystack-signature"] = hmac.digest(secret, raw, "sha512").hex()
        return request

    def noted(self, label: str, status: int, text: str) -> None:
        self.statuses[label][status] += 1
        if status >= 400:
            self.codes[label].add(str(json.loads(text)["code"]))


@asynccontextmanager
async def running_stage(urls: Urls) -> AsyncIterator[Stage]:
    """The house behind uvicorn on a free port."""
    # A free user has 30 logins a minute and a provider 300 refused webhooks: here they come from one address.
    async with running_house(
        urls, refused_webhooks_per_minute=1_000_000, withdrawal_approval_minor={"NGN": 9_000_000}
    ) as house:
        for provider in house.settings.provider_credentials:
            sells = provider == "vtpass"
            await house.outcome(
                provider, "success", operation="purchase" if sells else "collect"
            )  # no amount is magic then
        await house.outcome("paystack", "success", operation="payout")
        with bind("127.0.0.1", 0, "") as listener:
            port = listener.getsockname()[1]
            server = EmbeddedServer(uvicorn.Config(house.app, lifespan="off", ws="none", log_config=None))
            serving = asyncio.create_task(server.serve([listener]))
            stage = Stage(house, f"http://127.0.0.1:{port}", asyncio.get_running_loop())
            try:
                await eventually(lambda: server.started, what="the server's start")
                yield stage
            finally:
                stage.close()
                server.should_exit = True
                await serving
