"""`/ws/transaction/{id}`, `/ws/user/{id}`, and the tickets for clients that cannot send headers with a socket."""

from collections.abc import Sequence
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Receive, Scope, Send

from payflow.identity.dependencies import current_principal
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.realtime.schemas import TicketAnswer, TicketRequest
from payflow.realtime.service import ChannelKind, Handshake, RealtimeService
from payflow.web.problems import problem_responses
from payflow.web.rate_limits import RateLimiter, address_key

PREFIXES = ("", "/api/v1")


class SocketEndpoint:
    """Raw ASGI: Starlette's WebSocket would cost a layer on every frame and several KB on every idle socket."""

    def __init__(self, service: RealtimeService, kind: ChannelKind) -> None:
        self._service = service
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._service.serve(self._handshake(scope), receive, send)

    def _handshake(self, scope: Scope) -> Handshake:
        headers = Headers(scope=scope)
        query = QueryParams(scope["query_string"])
        return Handshake(
            channel=f"{self._kind}:{scope['path_params']['channel_id']}",
            # It reads nothing of the request but its scope.
            address=address_key(cast(Request, HTTPConnection(scope))),
            origin=headers.get("origin"),
            host=headers.get("host"),
            token=_token(headers),
            ticket=query.get("ticket"),
            after=query.get("after"),
        )


def _token(headers: Headers) -> str | None:
    """The credential of the headers. Another scheme than Bearer is passed on as it stands, and refused as a bad token."""
    authorization = headers.get("authorization")
    if authorization is None:
        return headers.get("x-api-key")
    scheme, _, credential = authorization.partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else authorization


def realtime_routes(service: RealtimeService, *, prefixes: Sequence[str] = PREFIXES) -> list[BaseRoute]:
    """The sockets, for `app.router.routes.extend(…)`: they are no part of OpenAPI, which knows only HTTP."""
    kinds: tuple[ChannelKind, ...] = ("transaction", "user")
    return [
        WebSocketRoute(f"{prefix}/ws/{kind}/{{channel_id}}", SocketEndpoint(service, kind))
        for prefix in prefixes
        for kind in kinds
    ]


def realtime_router(service: RealtimeService, identity: IdentityService, limiter: RateLimiter) -> APIRouter:
    """POST /realtime/tickets. Counted as a read: a thousand browsers that reconnect need a thousand tickets."""
    router = APIRouter(prefix="/realtime", tags=["realtime"])
    principal = current_principal(identity, limiter=limiter, group="read")

    @router.post(
        "/tickets",
        status_code=201,
        summary="Make a ticket for a socket",
        responses=problem_responses(401, 403, 404, 422, 429, 503),
    )
    async def make_ticket(request: TicketRequest, caller: Annotated[Principal, Depends(principal)]) -> TicketAnswer:
        """A browser cannot send headers with a WebSocket. Make a ticket first, then open
        `/ws/transaction/{id}?ticket=…` (or `/ws/user/{id}?ticket=…`) with it: once, within a minute, on the channel it was
        made for. The socket lives as long as the credential that asked for the ticket.
        """
        ticket = await service.issue_ticket(caller, request.channel)
        return TicketAnswer(ticket=ticket, expires_in=service.ticket_seconds)

    return router
