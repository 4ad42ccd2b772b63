"""`/ws/transaction/{id}`, `/ws/user/{id}`, `/ws/wallet`, and the tickets for clients that cannot send headers with a socket."""

from collections.abc import Awaitable, Sequence
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from payflow.core.ids import uuid7
from payflow.core.logging import correlation_id
from payflow.identity.dependencies import current_principal
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.realtime.handshake import WALLET, ChannelKind, Handshake
from payflow.realtime.schemas import TicketAnswer, TicketRequest
from payflow.realtime.service import RealtimeService
from payflow.web.middleware import client_address_reader
from payflow.web.problems import problem_responses
from payflow.web.rate_limits import RateLimiter, address_key

PREFIXES = ("", "/api/v1")


class SocketEndpoint:
    """Raw ASGI: Starlette's WebSocket would cost a layer on every frame and several KB on every idle socket."""

    def __init__(self, service: RealtimeService, kind: ChannelKind | None = None) -> None:
        self._service = service
        self._kind = kind

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._service.serve(self._handshake(scope), receive, send)

    def _handshake(self, scope: Scope) -> Handshake:
        headers = Headers(scope=scope)
        query = QueryParams(scope["query_string"])
        return Handshake(
            channel=WALLET if self._kind is None else f"{self._kind}:{scope['path_params']['channel_id']}",
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
    """The sockets, for `SocketsFirst` (or, heavier, the app's own routes). OpenAPI knows only HTTP, so not of them."""
    kinds: tuple[ChannelKind, ...] = ("transaction", "user")
    named = [
        WebSocketRoute(f"{prefix}/ws/{kind}/{{channel_id}}", SocketEndpoint(service, kind))
        for prefix in prefixes
        for kind in kinds
    ]
    return [*named, *(WebSocketRoute(f"{prefix}/ws/wallet", SocketEndpoint(service)) for prefix in prefixes)]


class SocketsFirst:
    """Middleware that hands sockets straight to their endpoint, past everything meant for requests.

    Each layer in between is a coroutine that every idle socket keeps: all of them together weigh 7 KB, more than our own
    part, and slow down each frame. So this is added last, which makes it the outermost, and does the little of the others
    that a socket needs: the client's address, and an id that ties its log lines together.
    """

    def __init__(self, app: ASGIApp, *, routes: Sequence[BaseRoute], trusted_proxies: Sequence[str] = ()) -> None:
        self.app = app
        self._routes = [route for route in routes if isinstance(route, WebSocketRoute)]
        self._client_address = client_address_reader(trusted_proxies)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "websocket":
            for route in self._routes:
                match, found = route.matches(scope)
                if match is Match.FULL:
                    scope.update(found)
                    scope.setdefault("state", {})["client_address"] = self._client_address(scope)
                    correlation_id.set(str(uuid7()))
                    return route.app(scope, receive, send)
        return self.app(scope, receive, send)


def realtime_router(service: RealtimeService, identity: IdentityService, limiter: RateLimiter) -> APIRouter:
    """POST /realtime/tickets. Counted as a read: a thousand browsers that reconnect need a thousand tickets."""
    router = APIRouter(prefix="/realtime", tags=["realtime"])
    principal = current_principal(identity, limiter=limiter, group="read")

    @router.post(
        "/tickets",
        status_code=201,
        summary="Make a ticket for a socket",
        responses=problem_responses(400, 401, 403, 404, 413, 422, 429, 503),
    )
    async def make_ticket(request: TicketRequest, caller: Annotated[Principal, Depends(principal)]) -> TicketAnswer:
        """A browser cannot send headers with a WebSocket. Make a ticket first, then open
        `/ws/transaction/{id}?ticket=…` (or `/ws/user/{id}?ticket=…`) with it: once, within a minute, on the channel it was
        made for. The socket lives as long as the credential that asked for the ticket.
        """
        ticket = await service.issue_ticket(caller, request.channel)
        return TicketAnswer(ticket=ticket, expires_in=service.ticket_seconds)

    return router
