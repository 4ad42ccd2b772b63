"""The shop that `payflow demo` plays: it takes payments, watches them live, gives money back, and believes nothing unchecked."""

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
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
    """It talks to the API as a merchant; `get` and `post` raise DemoFailed for any other answer than the expected one."""

    def __init__(self, url: str, client: httpx.AsyncClient, *, timeout_seconds: float) -> None:
        self._url = url
        self._client = client
        self._began = time.monotonic()
        self.timeout_seconds = timeout_seconds
        self.user_id = UUID(int=0)
        self.token = ""

    async def sign_in(self) -> None:
        email, password = f"demo-{secrets.token_hex(6)}@payflow.example", secrets.token_urlsafe(16)
        registered = await self._client.post(
            "/auth/register", json={"email": email, "password": password, "name": "Demo Merchant"}
        )
        self.user_id = UUID(_expect(registered, 201, "register")["id"])
        login = await self._client.post("/auth/login", json={"email": email, "password": password})
        self.token = _expect(login, 200, "login")["access_token"]
        self._client.headers["authorization"] = f"Bearer {self.token}"
        say(f"Registered and logged in as {email}")

    # -- taking money -----------------------------------------------------------------------------------------------------

    async def initialize(self, body: dict[str, Any], path: str = "/payments/initialize") -> dict[str, Any]:
        payment = await self.post(path, body, 201)
        action = payment["next_action"] or {}
        hint = action.get("url") or action.get("display_text") or ""
        say(f"  POST {path} → {payment['status']}  {action.get('type', '')} {hint}")
        return payment

    async def complete(self, what: str, payment: dict[str, Any]) -> Sale:
        """Watch a payment to its end, giving what its customer is asked for. DemoFailed unless it completed and socket and
        `GET` tell the same story."""
        ways = [(payment["next_action"] or {}).get("type", "none")]
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(payment["id"], payment["client_token"]))
            if ways[0] in GIVEN:
                group.create_task(self._submit_all(payment["id"], ways))
        shown = await self.agreed(
            f"/payments/{payment['id']}", watching.result(), "payment.initiated", "payment.completed"
        )
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
            answered = await self.post(f"/payments/{payment_id}/submit-otp", step, 200)
            asked = (answered["next_action"] or {}).get("type")
            then = f"  {asked}" if asked else ""
            say(f"  POST /payments/…/submit-otp {ways[-1]} → {answered['status']}{then}")
            if asked is None:
                return
            ways.append(asked)

    async def _watch(self, payment_id: str, client_token: str) -> list[dict[str, Any]]:
        """Until the payment ends. The customer's own token opens the socket."""
        auth = {"type": "auth", "token": client_token}
        return await self.watch(
            "payment", f"/ws/transaction/{payment_id}", [auth], lambda frame: frame.get("status") in FINAL
        )

    async def watch(
        self, what: str, path: str, messages: Sequence[dict[str, Any]], is_last: Callable[[dict[str, Any]], bool]
    ) -> list[dict[str, Any]]:
        """Every event from the first on, to the last one. `messages` are what the socket wants to be told."""
        url = self._url.replace("http", "ws", 1) + f"{path}?after=0"
        frames: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(self.timeout_seconds), connect(url, proxy=None) as socket:
                for message in messages:
                    await socket.send(json.dumps(message))
                async for text in socket:
                    frame = json.loads(text)
                    self._show_frame(frame)
                    if frame["type"] == "error":
                        raise DemoFailed(f"the socket said {frame}")
                    if frame["type"] != "snapshot":
                        frames.append(frame)
                    if frame["type"] != "snapshot" and is_last(frame):
                        return frames
        except TimeoutError:
            last = frames[-1]["type"] if frames else "nothing"
            raise DemoFailed(
                f"the {what} did not end within {self.timeout_seconds:.0f} s (last seen: {last})"
            ) from None
        raise DemoFailed(f"the socket was closed before the {what} ended")

    async def agreed(self, path: str, frames: list[dict[str, Any]], first: str, last: str) -> dict[str, Any]:
        """What `GET` tells in the end. DemoFailed unless it completed and the frames, from `first` to `last`, tell the same."""
        _check_frames(frames, first, last)
        shown = await self.get(path)
        _check_agreement(shown, frames)
        _show_timeline(shown)
        return shown

    # -- giving it back ---------------------------------------------------------------------------------------------------

    async def refund(self, sale: Sale, amount: str | None, *, leaves: str) -> None:
        """Give back a part, or without `amount` all that is left, and wait for the end. DemoFailed unless the payment is
        then `leaves`, its history whole, and every way to ask agrees."""
        body = {"reason": "Demo"} if amount is None else {"amount": amount, "reason": "Demo"}
        left = (await self.get(f"/payments/{sale.id}/refunds"))["refundable_minor"]
        started = await self.post(f"/payments/{sale.id}/refund", body, 201)
        say(f"  POST /payments/…/refund → {started['status']}  {started['amount']} {started['currency']}")
        if amount is None and started["amount_minor"] != left:
            raise DemoFailed(f"the rest is {left}, but {started['amount_minor']} is being given back")
        ended = await self._ended(sale.id, started["id"])
        before, sale.payment = sale.payment, await self.get(f"/payments/{sale.id}")
        _check_refund(before, sale.payment, ended, leaves)
        remaining = (await self.get(f"/payments/{sale.id}/refunds"))["refundable_minor"]
        if remaining != left - ended["amount_minor"]:
            raise DemoFailed(f"{remaining} is said to be left of {left}, after {ended['amount_minor']} was given back")
        _show_timeline(sale.payment, after=before["version"])

    async def _ended(self, payment_id: str, refund_id: str) -> dict[str, Any]:
        path = f"/payments/{payment_id}/refunds/{refund_id}"
        refund = await self.get(path)
        try:
            async with asyncio.timeout(self.timeout_seconds):
                while refund["status"] not in REFUND_FINAL:
                    await asyncio.sleep(POLL_SECONDS)
                    refund = await self.get(path)
        except TimeoutError:
            last = refund["status"]
            raise DemoFailed(
                f"the refund did not end within {self.timeout_seconds:.0f} s (last seen: {last})"
            ) from None
        say(f"  GET  /payments/…/refunds/… → {refund['status']}  {self._elapsed()}")
        return refund

    # -- how it talks -----------------------------------------------------------------------------------------------------

    async def get(self, path: str) -> dict[str, Any]:
        return _expect(await self._client.get(path), 200, f"GET {path}")

    async def post(self, path: str, body: dict[str, Any], status: int) -> dict[str, Any]:
        headers = {"idempotency-key": secrets.token_hex(16)}
        return _expect(await self._client.post(path, json=body, headers=headers), status, f"POST {path}")

    def _show_frame(self, frame: dict[str, Any]) -> None:
        number = "-" if frame.get("sequence") is None else frame["sequence"]
        say(f"  ws  {self._elapsed()}  #{number}  {frame['type']:<24} {frame.get('status') or ''}")

    def _elapsed(self) -> str:
        return f"+{time.monotonic() - self._began:6.2f}s"


Step = tuple[str, Callable[[Shop], Awaitable[None]]]


def say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)


def in_columns(head: Sequence[str], rows: Sequence[Sequence[str]], *, to_the_right: Collection[str]) -> str:
    """One line each, under their headings."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if name in to_the_right else cell.ljust(width)
            for cell, width, name in zip(cells, widths, head, strict=True)
        ).rstrip()

    return "\n".join([line(head), line(["-" * width for width in widths]), *(line(row) for row in rows)])


def _expect(response: httpx.Response, status: int, what: str) -> dict[str, Any]:
    if response.status_code != status:
        raise DemoFailed(f"{what} answered {response.status_code}: {response.text[:500]}")
    body: dict[str, Any] = response.json()
    return body


def _check_frames(frames: list[dict[str, Any]], first: str, last: str) -> None:
    sequences = [frame["sequence"] for frame in frames]
    if sequences != list(range(1, len(sequences) + 1)):
        raise DemoFailed(f"the frames have gaps or are out of order: {sequences}")
    if (frames[0]["type"], frames[-1]["type"]) != (first, last):
        raise DemoFailed(f"it went from {frames[0]['type']} to {frames[-1]['type']}")


def _check_agreement(shown: dict[str, Any], frames: list[dict[str, Any]]) -> None:
    told = [(frame["event_id"], frame["sequence"], frame["type"]) for frame in frames]
    stored = [(event["id"], event["sequence"], event["type"]) for event in shown["timeline"]]
    if stored != told or shown["status"] != "completed" or shown["version"] != len(frames):
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
