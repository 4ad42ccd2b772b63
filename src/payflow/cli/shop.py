"""The shop that `payflow demo` plays: it takes payments, watches them live, gives money back, and believes nothing unchecked."""

import asyncio
import json
import secrets
import sys
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from websockets.asyncio.client import connect

# What the simulated customer gives when asked; the code is the one that C-Pay and Paystack "send".
GIVEN = {"otp": "123456", "pin": "1234", "birthday": "1990-05-17", "phone": "+2348012345678"}
STEPS_AT_MOST = 5
POLL_SECONDS = 0.2
FINAL = {"completed", "failed", "cancelled", "expired", "under_review"}
REFUND_FINAL = {"completed", "failed", "under_review"}


class DemoFailed(Exception):
    """What went wrong, in one sentence."""


@dataclass(slots=True)
class Sale:
    """A payment as `GET` tells it last, and by which ways its customer was led to pay."""

    what: str
    payment: dict[str, Any]
    ways: list[str]

    @property
    def id(self) -> str:
        return str(self.payment["id"])

    @property
    def collecting(self) -> list[dict[str, Any]]:
        """The attempts to take the money, in their order."""
        return [attempt for attempt in self.payment["attempts"] if attempt["operation"] == "collect"]


class Shop:
    def __init__(self, url: str, client: httpx.AsyncClient, *, timeout_seconds: float) -> None:
        self._url = url
        self._client = client
        self._timeout = timeout_seconds
        self._began = time.monotonic()
        self.user_id = UUID(int=0)

    async def sign_in(self) -> None:
        email, password = f"demo-{secrets.token_hex(6)}@payflow.example", secrets.token_urlsafe(16)
        registered = await self._client.post(
            "/auth/register", json={"email": email, "password": password, "name": "Demo Merchant"}
        )
        self.user_id = UUID(_expect(registered, 201, "register")["id"])
        login = await self._client.post("/auth/login", json={"email": email, "password": password})
        token = _expect(login, 200, "login")["access_token"]
        self._client.headers["authorization"] = f"Bearer {token}"
        say(f"Registered and logged in as {email}")

    # -- taking money -----------------------------------------------------------------------------------------------------

    async def initialize(self, body: dict[str, Any]) -> dict[str, Any]:
        payment = await self._post("/payments/initialize", body, 201)
        action = payment["next_action"] or {}
        hint = action.get("url") or action.get("display_text") or ""
        say(f"  POST /payments/initialize → {payment['status']}  {action.get('type', '')} {hint}")
        return payment

    async def complete(self, what: str, payment: dict[str, Any]) -> Sale:
        """Watch a payment to its end, giving what its customer is asked for. DemoFailed unless it completed and socket and
        `GET` tell the same story."""
        ways = [(payment["next_action"] or {}).get("type", "none")]
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(payment["id"], payment["client_token"]))
            if ways[0] in GIVEN:
                group.create_task(self._submit_all(payment["id"], ways))
        frames = watching.result()
        _check_frames(frames)
        shown = await self._get(f"/payments/{payment['id']}")
        _check_agreement(shown, frames)
        _show_timeline(shown)
        return Sale(what, shown, ways)

    async def pay(self, what: str, body: dict[str, Any]) -> Sale:
        return await self.complete(what, await self.initialize(body))

    async def _submit_all(self, payment_id: str, ways: list[str]) -> None:
        """The customer reads what is asked for, and the shop passes on what he gives, until nothing more is asked."""
        while ways[-1] in GIVEN:
            if len(ways) > STEPS_AT_MOST:
                raise DemoFailed(f"the provider asks on and on: {' → '.join(ways)}")
            await asyncio.sleep(0.5)
            step = {ways[-1]: GIVEN[ways[-1]]}
            answered = await self._post(f"/payments/{payment_id}/submit-otp", step, 200)
            asked = (answered["next_action"] or {}).get("type")
            then = f"  {asked}" if asked else ""
            say(f"  POST /payments/…/submit-otp {ways[-1]} → {answered['status']}{then}")
            if asked is None:
                return
            ways.append(asked)

    async def _watch(self, payment_id: str, client_token: str) -> list[dict[str, Any]]:
        """Every event from the first on, until the payment ends. The customer's own token opens the socket."""
        url = self._url.replace("http", "ws", 1) + f"/ws/transaction/{payment_id}?after=0"
        frames: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(self._timeout), connect(url, proxy=None) as socket:
                await socket.send(json.dumps({"type": "auth", "token": client_token}))
                async for text in socket:
                    frame = json.loads(text)
                    self._show_frame(frame)
                    if frame["type"] == "error":
                        raise DemoFailed(f"the socket said {frame}")
                    if frame["type"] != "snapshot":
                        frames.append(frame)
                    if frame["type"] != "snapshot" and frame.get("status") in FINAL:
                        return frames
        except TimeoutError:
            last = frames[-1]["type"] if frames else "nothing"
            raise DemoFailed(f"the payment did not end within {self._timeout:.0f} s (last seen: {last})") from None
        raise DemoFailed("the socket was closed before the payment ended")

    # -- giving it back ---------------------------------------------------------------------------------------------------

    async def refund(self, sale: Sale, amount: str | None, *, leaves: str) -> None:
        """Give back a part, or without `amount` all that is left, and wait for the end. DemoFailed unless the payment is
        then `leaves`, its history whole, and every way to ask agrees."""
        body = {"reason": "Demo"} if amount is None else {"amount": amount, "reason": "Demo"}
        left = (await self._get(f"/payments/{sale.id}/refunds"))["refundable_minor"]
        started = await self._post(f"/payments/{sale.id}/refund", body, 201)
        say(f"  POST /payments/…/refund → {started['status']}  {started['amount']} {started['currency']}")
        if amount is None and started["amount_minor"] != left:
            raise DemoFailed(f"the rest is {left}, but {started['amount_minor']} is being given back")
        ended = await self._ended(sale.id, started["id"])
        before, sale.payment = sale.payment, await self._get(f"/payments/{sale.id}")
        _check_refund(before, sale.payment, ended, leaves)
        remaining = (await self._get(f"/payments/{sale.id}/refunds"))["refundable_minor"]
        if remaining != left - ended["amount_minor"]:
            raise DemoFailed(f"{remaining} is said to be left of {left}, after {ended['amount_minor']} was given back")
        _show_timeline(sale.payment, after=before["version"])

    async def _ended(self, payment_id: str, refund_id: str) -> dict[str, Any]:
        path = f"/payments/{payment_id}/refunds/{refund_id}"
        refund = await self._get(path)
        try:
            async with asyncio.timeout(self._timeout):
                while refund["status"] not in REFUND_FINAL:
                    await asyncio.sleep(POLL_SECONDS)
                    refund = await self._get(path)
        except TimeoutError:
            last = refund["status"]
            raise DemoFailed(f"the refund did not end within {self._timeout:.0f} s (last seen: {last})") from None
        say(f"  GET  /payments/…/refunds/… → {refund['status']}  {self._elapsed()}")
        return refund

    # -- how it talks -----------------------------------------------------------------------------------------------------

    async def _get(self, path: str) -> dict[str, Any]:
        return _expect(await self._client.get(path), 200, f"GET {path}")

    async def _post(self, path: str, body: dict[str, Any], status: int) -> dict[str, Any]:
        headers = {"idempotency-key": secrets.token_hex(16)}
        return _expect(await self._client.post(path, json=body, headers=headers), status, f"POST {path}")

    def _show_frame(self, frame: dict[str, Any]) -> None:
        number = "-" if frame.get("sequence") is None else frame["sequence"]
        say(f"  ws  {self._elapsed()}  #{number}  {frame['type']:<24} {frame.get('status') or ''}")

    def _elapsed(self) -> str:
        return f"+{time.monotonic() - self._began:6.2f}s"


def say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)


def _expect(response: httpx.Response, status: int, what: str) -> dict[str, Any]:
    if response.status_code != status:
        raise DemoFailed(f"{what} answered {response.status_code}: {response.text[:500]}")
    body: dict[str, Any] = response.json()
    return body


def _check_frames(frames: list[dict[str, Any]]) -> None:
    sequences = [frame["sequence"] for frame in frames]
    if sequences != list(range(1, len(sequences) + 1)):
        raise DemoFailed(f"the frames have gaps or are out of order: {sequences}")
    if frames[0]["type"] != "payment.initiated" or frames[-1]["type"] != "payment.completed":
        raise DemoFailed(f"the payment went from {frames[0]['type']} to {frames[-1]['type']}")


def _check_agreement(payment: dict[str, Any], frames: list[dict[str, Any]]) -> None:
    told = [(frame["event_id"], frame["sequence"], frame["type"]) for frame in frames]
    stored = [(event["id"], event["sequence"], event["type"]) for event in payment["timeline"]]
    if stored != told or payment["status"] != "completed" or payment["version"] != len(frames):
        raise DemoFailed(f"GET tells another story than the socket: {stored} against {told}")


def _check_refund(before: dict[str, Any], after: dict[str, Any], refund: dict[str, Any], leaves: str) -> None:
    """The payment as it was and as it is now, and the refund as it ended."""
    if refund["status"] != "completed":
        failure = refund["failure"] or {}
        raise DemoFailed(f"the refund ended {refund['status']}: {failure.get('message', 'without a reason')}")
    refunded = before["refunded_minor"] + refund["amount_minor"]
    if (after["status"], after["refunded_minor"]) != (leaves, refunded):
        raise DemoFailed(
            f"the payment is {after['status']} with {after['refunded_minor']} given back, not {leaves} with {refunded}"
        )
    if refund not in after["refunds"]:
        raise DemoFailed(f"GET of the payment tells another refund than GET of the refund: {after['refunds']}")
    timeline = after["timeline"]
    if [event["sequence"] for event in timeline] != list(range(1, after["version"] + 1)):
        raise DemoFailed(f"the history has gaps: {[event['sequence'] for event in timeline]}")
    kinds = [event["type"] for event in timeline if event["data"].get("refund_id") == refund["id"]]
    if timeline[: before["version"]] != before["timeline"] or kinds != ["refund.processing", "refund.completed"]:
        raise DemoFailed(f"the history tells of the refund {kinds}, or another beginning than before")


def _show_timeline(payment: dict[str, Any], *, after: int = 0) -> None:
    attempt = payment["attempts"][-1]
    say(
        f"  GET {payment['reference']}: {payment['status']}, {payment['amount']} {payment['currency']}, "
        f"provider ids {', '.join(attempt['provider_references']) or '-'}"
    )
    for event in payment["timeline"][after:]:
        say(f"      {event['created_at'][11:23]}  {event['sequence']}  {event['type']:<24} by {event['actor']}")
