"""`/_control`: choose outcomes, act as the customer, read what happened.

Open to whoever reaches it, hence never in production.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from payflow.simulator.outcomes import PROVIDERS, UnknownOutcome, supports, table
from payflow.simulator.state import NoSuchCharge, NotPossible, Provider, Simulation, reply


class Resettable(Provider, Protocol):
    def reset(self) -> None: ...


class OutcomeRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    provider: str
    outcome: str
    times: PositiveInt | None = None
    delay_seconds: NonNegativeFloat | None = None
    operation: str = Field(default="collect", pattern="^(collect|refund|payout|purchase)$")


class Control:
    def __init__(self, simulation: Simulation, providers: Mapping[str, Resettable]) -> None:
        self.simulation = simulation
        self.providers = providers

    def routes(self) -> list[Route]:
        calls: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            ("GET", "/outcomes", self.outcomes),
            ("POST", "/outcomes", self.choose_outcome),
            ("DELETE", "/outcomes", self.clear_outcomes),
            ("GET", "/charges", self.charges),
            ("POST", "/charges/{provider}/{reference:path}/{action}", self.act),
            ("GET", "/requests", self.requests),
            ("GET", "/webhooks", self.webhooks),
            ("POST", "/webhooks/{id}/redeliver", self.redeliver),
            ("GET", "/settings", self.settings),
            ("POST", "/settings", self.change_settings),
            ("POST", "/reset", self.reset),
        ]
        return [Route(path, guarded(endpoint), methods=[method]) for method, path, endpoint in calls]

    async def outcomes(self, request: Request) -> Response:
        return reply({"outcomes": table(), "overrides": self.simulation.overrides.describe()})

    async def choose_outcome(self, request: Request) -> Response:
        wanted = OutcomeRequest.model_validate_json(await request.body())
        if wanted.provider not in (*PROVIDERS, "all"):
            raise UnknownOutcome(f"no provider {wanted.provider!r}")
        able = [
            name for name in PROVIDERS if wanted.provider == "all" and supports(name, wanted.outcome, wanted.operation)
        ]
        for provider in able or [wanted.provider]:
            self.simulation.overrides.add(
                provider,
                wanted.outcome,
                times=wanted.times,
                delay_seconds=wanted.delay_seconds,
                operation=wanted.operation,
            )
        return reply({"overrides": self.simulation.overrides.describe()}, 201)

    async def clear_outcomes(self, request: Request) -> Response:
        self.simulation.overrides.clear(request.query_params.get("provider"))
        return reply({"overrides": self.simulation.overrides.describe()})

    async def charges(self, request: Request) -> Response:
        journal, query = self.simulation.journal, request.query_params
        rows = [journal.describe(key) for key in journal.keys(query.get("provider"), query.get("reference"))]
        names = ("submissions", "charges", "money_taken_minor", "refunded_minor")
        return reply({"charges": rows, "totals": {name: sum(row[name] for row in rows) for name in names}})

    async def act(self, request: Request) -> Response:
        """Webhooks that follow have been tried once when this answers."""
        path = request.path_params
        charge = self.simulation.journal.find(path["provider"], path["reference"])
        if charge.customer is not None:
            charge.customer.cancel()  # whoever steers by hand does not want the automatic customer as well
        task = self.providers[charge.provider].act(charge, path["action"])
        if task is not None:
            await task
        return reply(charge.describe())

    async def requests(self, request: Request) -> Response:
        provider = request.query_params.get("provider")
        rows = [row for row in self.simulation.journal.requests if provider in (None, row["provider"])]
        return reply({"requests": rows, "count": len(rows)})

    async def webhooks(self, request: Request) -> Response:
        query = request.query_params
        rows = [
            item.describe()
            for item in self.simulation.webhooks.deliveries.values()
            if query.get("provider") in (None, item.message.provider)
            and query.get("reference") in (None, item.message.reference)
        ]
        return reply({"webhooks": rows, "pending": sum(not row["delivered"] for row in rows)})

    async def redeliver(self, request: Request) -> Response:
        delivery = self.simulation.webhooks.deliveries.get(request.path_params["id"])
        if delivery is None:
            raise NoSuchCharge(f"no webhook {request.path_params['id']!r}")
        await self.simulation.webhooks.try_once(delivery)
        return reply(delivery.describe())

    async def settings(self, request: Request) -> Response:
        return reply(self.simulation.behaviour.model_dump())

    async def change_settings(self, request: Request) -> Response:
        values: dict[str, Any] = orjson.loads(await request.body())
        self.simulation.change(values)
        return reply(self.simulation.behaviour.model_dump())

    async def reset(self, request: Request) -> Response:
        await self.simulation.reset()
        for provider in self.providers.values():
            provider.reset()
        return reply({"reset": True})


def guarded(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def call(request: Request) -> Response:
        try:
            return await endpoint(request)
        except NoSuchCharge as error:
            return reply({"error": str(error)}, 404)
        except NotPossible as error:
            return reply({"error": str(error)}, 409)
        except ValidationError as error:
            return reply({"error": error.errors(include_url=False, include_context=False, include_input=False)}, 422)
        except (UnknownOutcome, orjson.JSONDecodeError, TypeError) as error:
            return reply({"error": str(error)}, 422)

    return call
