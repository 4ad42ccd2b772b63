"""Example Pay as it behaves, for tests and development: charges, a page to pay on, signed webhooks.

It imports neither the adapter nor the gateway and signs by itself, so that it can contradict them.
"""

import asyncio
import hashlib
import hmac
from typing import Any

import httpx
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SECRET_KEY = "sk_test_simulator_example_pay"  # noqa: S105 - opens nothing
WEBHOOK_SECRET = "webhook_secret_simulator_example_pay"  # noqa: S105 - opens nothing
SHOWN = ("id", "reference", "status", "amount", "currency")


class ExamplePay:
    """`transport` carries the webhooks; None is the network."""

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.charges: dict[str, dict[str, Any]] = {}
        self.transport = transport

    def routes(self) -> list[Route]:
        return [
            Route("/charges", self.open, methods=["POST"]),
            Route("/charges/{reference}", self.show),
            Route("/pay/{reference}", self.pay, methods=["POST"]),
        ]

    async def open(self, request: Request) -> Response:
        if not known(request):
            return refusal(401, "invalid_key")
        order = orjson.loads(await request.body())
        reference = order["reference"]
        if type(order["amount"]) is not int or order["amount"] <= 0:
            return refusal(400, "invalid_request")
        if reference in self.charges:
            return refusal(409, "duplicate_reference")
        self.charges[reference] = {**order, "id": f"ch_{len(self.charges) + 1}_{reference}", "status": "pending"}
        page = f"{request.base_url}pay/{reference}"
        return JSONResponse({**shown(self.charges[reference]), "checkout_url": page}, 201)

    async def show(self, request: Request) -> Response:
        if not known(request):
            return refusal(401, "invalid_key")
        charge = self.charges.get(request.path_params["reference"])
        return JSONResponse(shown(charge)) if charge else refusal(404, "not_found")

    async def pay(self, request: Request) -> Response:
        """What the customer does on the page; `?status=failed` for a decline."""
        charge = self.charges.get(request.path_params["reference"])
        if charge is None or charge["status"] == "paid":
            return refusal(409, "not_payable")
        charge["status"] = request.query_params.get("status", "paid")
        await self.notify(charge)
        return JSONResponse(shown(charge))

    async def notify(self, charge: dict[str, Any]) -> None:
        """A provider that is not answered 2xx comes again."""
        event = {"id": f"ev_{charge['id']}_{charge['status']}", "type": "charge.updated", "charge": shown(charge)}
        body = orjson.dumps(event)
        headers = {"content-type": "application/json", "x-signature": sign(body)}
        async with httpx.AsyncClient(transport=self.transport, trust_env=False) as client:
            for _ in range(5):
                if (await client.post(charge["webhook_url"], content=body, headers=headers)).is_success:
                    return
                await asyncio.sleep(0.2)


def create_app(simulated: ExamplePay) -> Starlette:
    return Starlette(routes=simulated.routes())


def shown(charge: dict[str, Any]) -> dict[str, Any]:
    return {name: charge[name] for name in SHOWN}


def known(request: Request) -> bool:
    return hmac.compare_digest(request.headers.get("authorization", "").encode(), f"Bearer {SECRET_KEY}".encode())


def refusal(status: int, error: str) -> Response:
    return JSONResponse({"error": error}, status)


def sign(body: bytes) -> str:
    return hmac.new(WEBHOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()
