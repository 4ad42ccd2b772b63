"""Puts one simulator together: the providers' surfaces, their hosted pages and the control calls in one ASGI app."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from payflow.simulator.control import Control, Resettable
from payflow.simulator.cpay import Cpay
from payflow.simulator.flutterwave import Flutterwave
from payflow.simulator.moniepoint import Moniepoint
from payflow.simulator.mpesa import Mpesa
from payflow.simulator.outcomes import PROVIDERS
from payflow.simulator.pages import Pages
from payflow.simulator.paystack import Paystack
from payflow.simulator.settings import SimulatorNotAllowed, SimulatorSettings
from payflow.simulator.standardbank_pay import StandardBankPay
from payflow.simulator.state import Simulation, reply
from payflow.simulator.stripe import Stripe
from payflow.simulator.vtpass import Vtpass
from payflow.simulator.webhooks import Clock


class Half(Resettable, Protocol):
    """A provider's half: its routes, and what its customers can do."""

    def routes(self) -> list[Route]: ...


def create_simulator(
    settings: SimulatorSettings, *, clock: Clock = time.time, transport: httpx.AsyncBaseTransport | None = None
) -> Starlette:
    """`clock` gives seconds since 1970; `transport` carries the outgoing webhooks (tests answer them in-process)."""
    if settings.environment.strip().lower() == "production":
        raise SimulatorNotAllowed("the payment simulator refuses to run while PAYFLOW_ENVIRONMENT is 'production'")
    simulation = Simulation(settings, clock, transport)
    paystack, stripe = Paystack(simulation), Stripe(simulation)
    moniepoint, standardbank_pay = Moniepoint(simulation), StandardBankPay(simulation)
    flutterwave = Flutterwave(simulation)
    halves: dict[str, Half] = {
        "paystack": paystack,
        "mpesa": Mpesa(simulation),
        "stripe": stripe,
        "standardbank_pay": standardbank_pay,
        "moniepoint": moniepoint,
        "cpay": Cpay(simulation),
        "flutterwave": flutterwave,
        "vtpass": Vtpass(simulation),
    }
    control = Control(simulation, halves)
    pages = Pages(simulation, paystack, stripe, standardbank_pay, moniepoint, flutterwave)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await simulation.aclose()

    app = Starlette(
        routes=[
            Route("/", index),
            *(Mount(f"/{name}", routes=half.routes()) for name, half in halves.items()),
            Mount("/checkout", routes=pages.routes()),
            Mount("/_control", routes=control.routes()),
        ],
        middleware=[Middleware(RequestLog, simulation=simulation)],
        lifespan=lifespan,
    )
    app.state.simulation = simulation
    return app


async def index(request: Request) -> Response:
    return reply({"service": "payflow simulator", "providers": list(PROVIDERS), "outcomes": "/_control/outcomes"})


class RequestLog:
    """Writes down every provider call with the status it got; the control calls and pages are not of interest."""

    def __init__(self, app: ASGIApp, simulation: Simulation) -> None:
        self.app = app
        self.simulation = simulation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        provider = scope["path"].split("/", 2)[1] if scope["type"] == "http" else ""
        if provider not in PROVIDERS:
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(f"/{provider}")
        entry = {
            "provider": provider,
            "method": scope["method"],
            "path": path,
            "at": self.simulation.clock(),
            "status": None,
        }
        self.simulation.journal.requests.append(entry)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
            await send(message)

        await self.app(scope, receive, noting)
