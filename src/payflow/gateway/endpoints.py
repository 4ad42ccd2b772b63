"""`/providers`: what can be used, and, for administrators, the credentials."""

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Body, Depends, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError

from payflow.core.clock import Clock, rfc3339
from payflow.core.errors import FieldError, Invalid, NotFound
from payflow.core.ids import uuid7
from payflow.events.repository import EventRepository
from payflow.events.types import Actor, Event, Origin
from payflow.gateway.breaker import Breakers, ProviderState
from payflow.gateway.contract import (
    Cancels,
    Collects,
    ListsBanks,
    PaysOut,
    Provider,
    ReceivesWebhooks,
    Refunds,
    SellsAirtime,
    TakesOtp,
)
from payflow.gateway.credentials import SealedCredentials
from payflow.gateway.drains import Drains
from payflow.gateway.registry import Registry
from payflow.gateway.schemas import ConfiguredView, DrainedView, DrainProvider, ProviderList, RetiredView
from payflow.identity.dependencies import current_principal
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.infra.database import Database, RawConnection
from payflow.web.problems import problem_responses
from payflow.web.rate_limits import RateLimiter

ProviderName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{1,40}$", examples=["paystack"])]

_CAPABILITIES: Mapping[str, type] = {
    "collect": Collects,
    "cancel": Cancels,
    "otp": TakesOtp,
    "refund": Refunds,
    "payout": PaysOut,
    "banks": ListsBanks,
    "airtime": SellsAirtime,
    "webhooks": ReceivesWebhooks,
}


def providers_router(
    database: Database,
    registry: Registry,
    credentials: SealedCredentials,
    drains: Drains,
    breakers: Breakers,
    events: EventRepository,
    identity: IdentityService,
    limiter: RateLimiter,
    clock: Clock,
) -> APIRouter:
    router = APIRouter(prefix="/providers", tags=["providers"])
    reader = current_principal(identity, scope="providers:read", limiter=limiter, group="read")
    admin = current_principal(identity, scope="config:admin", admin=True, limiter=limiter, group="write")

    @router.get(
        "", summary="List providers", response_model=ProviderList, responses=problem_responses(401, 403, 429, 503)
    )
    async def list_providers(principal: Annotated[Principal, Depends(reader)]) -> Response:
        """Every installed provider, in the order in which they are preferred, with what it can do and how it does."""
        data = []
        drained = await registry.drained()
        states = await breakers.states(registry.names) or {}
        for name in registry.names:
            provider = registry.get(name)
            assert provider is not None
            configured = await registry.credentials(name) is not None
            view = _view(provider, configured=configured, drained=name in drained)
            data.append(view | _doing(states.get(name)))
        return Response(orjson.dumps({"data": data}), media_type="application/json")

    @router.post(
        "/{name}/config",
        summary="Set a provider's credentials",
        response_model=ConfiguredView,
        responses=problem_responses(400, 401, 403, 404, 413, 422, 429, 503),
    )
    async def configure(
        request: Request,
        name: ProviderName,
        body: Annotated[
            dict[str, Any],
            Body(description="The provider's own fields.", examples=[{"secret_key": "sk_test_0123456789abcdef"}]),
        ],
        principal: Annotated[Principal, Depends(admin)],
    ) -> Response:
        """For administrators. Validated by the provider's own model, stored sealed, and never shown again. The values
        before them still verify webhooks, so that nothing on its way is refused, until they are retired."""
        provider = registry.get(name)
        if provider is None:
            raise NotFound("There is no such provider.")
        values = _credentials(provider, body)
        changed = Event(
            id=uuid7(),
            type="config.changed",
            created_at=clock(),
            user_id=principal.id,
            data={"provider": name, "fields": sorted(values.model_fields_set)},
            origin=_origin(request),
        )

        async def work(connection: RawConnection) -> UUID:
            identity_of = await credentials.add(connection, name, values, principal.id)
            await events.add([changed], connection)
            return identity_of

        config_id = await database.in_transaction(work)
        credentials.forget()
        view = {"name": name, "config_id": str(config_id), "fields": sorted(values.model_fields_set)}
        return Response(orjson.dumps(view), media_type="application/json")

    @router.delete(
        "/{name}/config/previous",
        summary="Retire a provider's former credentials",
        response_model=RetiredView,
        responses=problem_responses(401, 403, 404, 409, 422, 429, 503),
    )
    async def retire(request: Request, name: ProviderName, principal: Annotated[Principal, Depends(admin)]) -> Response:
        """For administrators, at the end of a rotation: from now on only the present credentials prove a webhook. The
        stored ones before them are deleted; those of the environment no longer count. Twice is the same as once."""
        if registry.get(name) is None:
            raise NotFound("There is no such provider.")

        async def work(connection: RawConnection) -> int:
            retired = await credentials.retire(connection, name)
            if retired:
                changed = Event(
                    id=uuid7(),
                    type="config.changed",
                    created_at=clock(),
                    user_id=principal.id,
                    data={"provider": name, "retired": retired},
                    origin=_origin(request),
                )
                await events.add([changed], connection)
            return retired

        retired = await database.in_transaction(work)
        credentials.forget()
        return Response(orjson.dumps({"name": name, "retired": retired}), media_type="application/json")

    @router.post(
        "/{name}/drain",
        summary="Take a provider out of use, or back into it",
        response_model=DrainedView,
        responses=problem_responses(400, 401, 403, 404, 413, 422, 429, 503),
    )
    async def drain(
        request: Request, name: ProviderName, body: DrainProvider, principal: Annotated[Principal, Depends(admin)]
    ) -> Response:
        """For administrators. A drained provider takes no new payments; those it has run to their end, with their webhooks
        and checks. Every node knows within seconds. Draining twice is the same as once."""
        if registry.get(name) is None:
            raise NotFound("There is no such provider.")
        changed = Event(
            id=uuid7(),
            type="provider.drained" if body.drained else "provider.resumed",
            created_at=clock(),
            user_id=principal.id,
            data={"provider": name, "reason": body.reason},
            origin=_origin(request),
        )

        async def work(connection: RawConnection) -> None:
            await drains.set(connection, name, body.drained, body.reason, principal.id)
            await events.add([changed], connection)

        await database.in_transaction(work)
        drains.forget()
        return Response(orjson.dumps({"name": name, "drained": body.drained}), media_type="application/json")

    return router


def _credentials(provider: Provider, body: Mapping[str, Any]) -> BaseModel:
    """Invalid, naming the fields, when the provider's own model does not take them, or no header could carry them."""
    problem = f"These are not credentials of {provider.declaration.title}."
    # SecretStr lets lone surrogates and line ends pass, and a pasted secret often ends with one.
    odd = [name for name, value in body.items() if isinstance(value, str) and not value.isprintable()]
    if odd:
        raise Invalid(problem, errors=[FieldError(_pointer(name), "Must be printable text.") for name in odd[:20]])
    try:
        return provider.CredentialsModel.model_validate(body)
    except ValidationError as error:
        raise Invalid(
            problem,
            errors=[
                FieldError(_pointer(*entry["loc"]), _message(entry["type"], entry["msg"]))
                for entry in error.errors(include_input=False, include_url=False)[:20]
            ],
        ) from None


def _pointer(*parts: int | str) -> str:
    return "/body" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def _message(kind: str, text: str) -> str:
    """Never the value: a mistyped secret is still a secret."""
    return "Unknown field." if kind == "extra_forbidden" else text


def _origin(request: Request) -> Origin:
    state = request.scope.get("state") or {}
    return Origin(Actor.USER, state.get("client_address"), None, state.get("request_id"))


def _view(provider: Provider, *, configured: bool, drained: bool) -> dict[str, Any]:
    declaration = provider.declaration
    return {
        "name": declaration.name,
        "title": declaration.title,
        "configured": configured,
        "drained": drained,
        "simulated": declaration.simulated,
        "capabilities": [name for name, capability in _CAPABILITIES.items() if isinstance(provider, capability)],
        "currencies": sorted(declaration.currencies),
        "countries": sorted(declaration.countries),
        "methods": sorted(declaration.methods),
        "webhook_path": f"/api/v1/webhooks/{declaration.path_name}" + ("/{token}" if declaration.webhook_token else ""),
    }


def _doing(state: ProviderState | None) -> dict[str, Any]:
    """Health and breaker; null while Redis is away."""
    if state is None:
        return {"health": None, "breaker": None}
    return {
        "health": {"success_rate": state.success_rate, "calls": state.calls, "latency_ms": state.latency_ms},
        "breaker": {
            "state": state.phase.value,
            "since": rfc3339(state.since) if state.since else None,
            "until": rfc3339(state.until) if state.until else None,
        },
    }
