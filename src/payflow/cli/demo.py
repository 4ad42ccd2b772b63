"""`payflow demo`: one payment with each provider, watched live, and checked as a doubtful customer would check it.

Exit 0 only if every payment completed, its frames had no gap, and what `GET` tells is what the socket told.
"""

import asyncio
import json
import secrets
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import websockets
from websockets.asyncio.client import connect

from payflow.cli.stack import Stack
from payflow.core.settings import Settings

PAYMENTS: tuple[dict[str, Any], ...] = (
    {
        "provider": "paystack",
        "amount": "5000.00",
        "currency": "NGN",
        "customer": {"email": "ada@example.com", "name": "Ada Obi"},
        "return_url": "https://shop.example/return",
    },
    {
        "provider": "mpesa",
        "amount": "250",
        "currency": "KES",
        "customer": {"phone": "+254708374149", "name": "Wanjiru"},
    },
    {
        "provider": "stripe",
        "amount": "19.90",
        "currency": "USD",
        "customer": {"email": "jenny@example.com", "name": "Jenny Rosen"},
        "return_url": "https://shop.example/return",
    },
    {
        "provider": "flutterwave",
        "amount": "1200.00",
        "currency": "GHS",
        "customer": {"email": "kofi@example.com", "name": "Kofi Mensah"},
        "return_url": "https://shop.example/return",
    },
    {
        "provider": "moniepoint",
        "amount": "4200.00",
        "currency": "NGN",
        "customer": {"email": "chidi@example.com", "name": "Chidi Eze"},
        "return_url": "https://shop.example/return",
    },
    {
        "provider": "cpay",
        "method": "otp",
        "amount": "150.00",
        "currency": "LSL",
        "customer": {"phone": "+26657012345", "name": "Lineo"},
    },
    {
        "provider": "standardbank_pay",
        "amount": "99.50",
        "currency": "ZAR",
        "customer": {"phone": "+27821234567", "name": "Palesa"},
    },
)
OTP = "123456"  # the code that the simulated C-Pay sends
FINAL = {"completed", "failed", "cancelled", "expired", "under_review"}


class DemoFailed(Exception):
    """What went wrong, in one sentence."""


@dataclass(slots=True)
class Watched:
    frames: list[dict[str, Any]] = field(default_factory=list)


class Demo:
    def __init__(self, stack: Stack, *, timeout_seconds: float) -> None:
        self._stack = stack
        self._timeout = timeout_seconds
        self._began = time.monotonic()

    async def run(self) -> int:
        """0, or 1 with the reason printed."""
        self._say(f"API {self._stack.url}/api/v1   docs {self._stack.url}/docs")
        for part, where in self._stack.parts.items():
            self._say(f"  {part}: {where}")
        ended = 0
        async with httpx.AsyncClient(base_url=self._stack.url + "/api/v1", trust_env=False, timeout=60) as client:
            try:
                await self._sign_in(client)
                for number, payment in enumerate(PAYMENTS, start=1):
                    self._say(
                        f"\n[{number}/{len(PAYMENTS)}] {payment['provider']}: {payment['amount']} {payment['currency']}"
                    )
                    await self._pay(client, payment)
            except* DemoFailed as failed:
                self._say(f"\nFAILED: {_first(failed)}")
                ended = 1
            except* (httpx.HTTPError, OSError, websockets.WebSocketException) as failed:
                error = _first(failed)
                self._say(f"\nFAILED: {type(error).__name__}: {error}")
                ended = 1
        if ended:
            return ended
        self._say(f"\nOK: {len(PAYMENTS)} payments completed, every frame in order, GET agrees.")
        return 0

    async def _sign_in(self, client: httpx.AsyncClient) -> None:
        email, password = f"demo-{secrets.token_hex(6)}@payflow.example", secrets.token_urlsafe(16)
        registered = await client.post(
            "/auth/register", json={"email": email, "password": password, "name": "Demo Merchant"}
        )
        _expect(registered, 201, "register")
        login = await client.post("/auth/login", json={"email": email, "password": password})
        _expect(login, 200, "login")
        client.headers["authorization"] = f"Bearer {login.json()['access_token']}"
        self._say(f"Registered and logged in as {email}")

    async def _pay(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        started = await client.post(
            "/payments/initialize", json=body, headers={"idempotency-key": secrets.token_hex(16)}
        )
        _expect(started, 201, "initialize")
        payment = started.json()
        action = payment["next_action"] or {}
        hint = action.get("url") or action.get("display_text") or ""
        self._say(f"  POST /payments/initialize → {payment['status']}  {action.get('type', '')} {hint}")
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(payment["id"], payment["client_token"]))
            if action.get("type") == "otp":
                group.create_task(self._submit(client, payment["id"]))
        frames = watching.result()
        self._check_frames(frames)
        shown = await client.get(f"/payments/{payment['id']}")
        _expect(shown, 200, "get")
        self._check_agreement(shown.json(), frames)
        self._show_timeline(shown.json())

    async def _submit(self, client: httpx.AsyncClient, payment_id: str) -> None:
        """The customer reads the code on the phone, and the shop passes it on."""
        await asyncio.sleep(0.5)
        submitted = await client.post(
            f"/payments/{payment_id}/submit-otp", json={"otp": OTP}, headers={"idempotency-key": secrets.token_hex(16)}
        )
        _expect(submitted, 200, "submit-otp")
        self._say(f"  POST /payments/…/submit-otp → {submitted.json()['status']}")

    async def _watch(self, payment_id: str, client_token: str) -> list[dict[str, Any]]:
        """Every event from the first on, until the payment ends. The customer's own token opens the socket."""
        url = self._stack.url.replace("http", "ws", 1) + f"/ws/transaction/{payment_id}?after=0"
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

    def _check_frames(self, frames: list[dict[str, Any]]) -> None:
        sequences = [frame["sequence"] for frame in frames]
        if sequences != list(range(1, len(sequences) + 1)):
            raise DemoFailed(f"the frames have gaps or are out of order: {sequences}")
        if frames[0]["type"] != "payment.initiated" or frames[-1]["type"] != "payment.completed":
            raise DemoFailed(f"the payment went from {frames[0]['type']} to {frames[-1]['type']}")

    def _check_agreement(self, payment: dict[str, Any], frames: list[dict[str, Any]]) -> None:
        told = [(frame["event_id"], frame["sequence"], frame["type"]) for frame in frames]
        stored = [(event["id"], event["sequence"], event["type"]) for event in payment["timeline"]]
        if stored != told or payment["status"] != "completed" or payment["version"] != len(frames):
            raise DemoFailed(f"GET tells another story than the socket: {stored} against {told}")

    def _show_frame(self, frame: dict[str, Any]) -> None:
        number = "-" if frame.get("sequence") is None else frame["sequence"]
        self._say(f"  ws  {self._elapsed()}  #{number}  {frame['type']:<24} {frame.get('status') or ''}")

    def _show_timeline(self, payment: dict[str, Any]) -> None:
        attempt = payment["attempts"][-1]
        self._say(
            f"  GET {payment['reference']}: {payment['status']}, {payment['amount']} {payment['currency']}, "
            f"provider ids {', '.join(attempt['provider_references']) or '-'}"
        )
        for event in payment["timeline"]:
            self._say(
                f"      {event['created_at'][11:23]}  {event['sequence']}  {event['type']:<24} by {event['actor']}"
            )

    def _elapsed(self) -> str:
        return f"+{time.monotonic() - self._began:6.2f}s"

    def _say(self, text: str) -> None:
        print(text, file=sys.stdout, flush=True)


def _first(group: BaseException) -> BaseException:
    """The error behind the groups that a task group wraps around it."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


def _expect(response: httpx.Response, status: int, what: str) -> None:
    if response.status_code != status:
        raise DemoFailed(f"{what} answered {response.status_code}: {response.text[:500]}")


def demo_settings(settings: Settings) -> Settings:
    """Quieter than a server, since its output is for reading."""
    return settings.model_copy(update={"log_level": "ERROR"})
