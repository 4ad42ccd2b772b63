"""The webhook addresses (thin routes: FastAPI's machinery would double their cost) and the dead letters."""

from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response as FastAPIResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from payflow.core.clock import Clock, rfc3339
from payflow.core.errors import Conflict
from payflow.identity.dependencies import current_principal
from payflow.identity.principals import Principal
from payflow.identity.service import IdentityService
from payflow.infra.queue.dead_letters import DeadLetter, DeadLetters
from payflow.infra.queue.fallback import SpooledQueue
from payflow.infra.queue.port import WEBHOOKS
from payflow.web.problems import problem_responses
from payflow.web.rate_limits import RateLimiter
from payflow.web.schemas import PLAIN_TEXT, Moment, RequestModel
from payflow.webhooks.intake import Arrival, Intake

BY_SIGNATURE = "payment"  # no provider may have it as its path name

_EXAMPLE: dict[str, Any] = {
    "id": "0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50",
    "provider": "paystack",
    "message_id": "0199b2f4-7a10-7b44-8d00-3c4d5e6f7a80",
    "reason": "malformed: no event type",
    "attempts": 0,
    "dead_at": "2026-11-21T10:00:00.000000Z",
    "replayed_at": None,
    "replayed_by": None,
    "size_bytes": 312,
}


class DeadLetterView(BaseModel):
    """A message that nobody could use. Its body is not shown."""

    id: UUID
    provider: str | None
    message_id: str
    reason: str
    attempts: int
    dead_at: datetime
    replayed_at: datetime | None
    replayed_by: str | None
    size_bytes: int


class DeadLetterPageView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"data": [_EXAMPLE], "next_cursor": None}]})

    data: list[DeadLetterView]
    next_cursor: str | None


class ReplayView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": _EXAMPLE["id"], "message_id": _EXAMPLE["message_id"]}]}
    )

    id: UUID
    message_id: str = Field(description="The message is in the queue again under this id.")


class ReplayMany(RequestModel):
    """Which dead letters: at least one of `provider`, `reason` and `dead_before`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"provider": "paystack", "reason": "given up", "limit": 100, "dry_run": True}]}
    )

    provider: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,39}$")] | None = None
    reason: Annotated[str, Field(min_length=1, max_length=200, pattern=PLAIN_TEXT)] | None = Field(
        default=None, description="How their reason begins."
    )
    dead_before: Moment | None = Field(default=None, description="Those that died before this time; now, if left out.")
    limit: int = Field(default=100, ge=1, le=500, description="At most so many, oldest first.")
    dry_run: bool = Field(default=False, description="Only show which they are.")

    @model_validator(mode="after")
    def says_which(self) -> Self:
        if all(each is None for each in (self.provider, self.reason, self.dead_before)):
            raise ValueError("Say which: name a provider, a reason or a time.")
        return self


class ReplayedView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"dry_run": True, "data": [_EXAMPLE], "has_more": False, "dead_before": "2026-11-21T10:05:00.000000Z"}
            ]
        }
    )

    dry_run: bool
    data: list[DeadLetterView] = Field(description="Those that were replayed, or would be, as they lay there.")
    has_more: bool = Field(description="More are left that fit.")
    dead_before: datetime = Field(
        description="Repeat the call with it for the rest: what dies again meanwhile is not in it."
    )


def webhook_routes(intake: Intake, prefix: str) -> list[BaseRoute]:
    """`POST {prefix}/webhooks/{provider}` and `…/{provider}/{token}`, and the older `…/payment` for whoever signs."""

    async def arrival(request: Request) -> Arrival:
        state = request.scope.get("state") or {}
        return Arrival(
            path_name=request.path_params.get("provider", BY_SIGNATURE),
            token=request.path_params.get("token"),
            headers=dict(request.headers),
            body=await request.body(),
            address=state.get("client_address"),
            correlation_id=state.get("request_id", ""),
        )

    async def receive(request: Request) -> Response:
        return Response(await intake.receive(await arrival(request)), media_type="application/json")

    async def receive_by_signature(request: Request) -> Response:
        answer, path_name = await intake.receive_by_signature(await arrival(request))
        headers = {"deprecation": "true", "link": f'<{prefix}/webhooks/{path_name}>; rel="successor-version"'}
        return Response(answer, media_type="application/json", headers=headers)

    return [
        Route(f"{prefix}/webhooks/{BY_SIGNATURE}", receive_by_signature, methods=["POST"], name="webhook_by_signature"),
        Route(f"{prefix}/webhooks/{{provider}}", receive, methods=["POST"], name="webhook"),
        Route(f"{prefix}/webhooks/{{provider}}/{{token}}", receive, methods=["POST"], name="webhook_with_token"),
    ]


def document_webhooks(document: dict[str, Any], prefix: str) -> None:
    """Thin routes are not in FastAPI's document by themselves."""
    responses = {
        "200": {
            "description": "Stored durably. The body is what the provider wants to read.",
            "content": {"application/json": {"schema": {"type": "object"}, "example": {}}},
        },
        **{str(status): value for status, value in problem_responses(401, 404, 413, 429, 503).items()},
    }
    provider = {
        "name": "provider",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": "The provider's path name: `paystack`, `stripe`, `standardbank`, `lipa` (M-Pesa).",
        "example": "paystack",
    }
    token = {
        "name": "token",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": "Names the attempt, for providers that do not sign.",
    }
    body = {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}, "example": {"event": "charge.success"}}},
    }
    for path, parameters in (("{provider}", [provider]), ("{provider}/{token}", [provider, token])):
        document["paths"][f"{prefix}/webhooks/{path}"] = {
            "post": {
                "tags": ["webhooks"],
                "summary": "Receive a provider's webhook",
                "description": "For providers, not for clients. The raw body is verified by the provider's own scheme, "
                "stored, and answered with 200; the work happens afterwards.",
                "operationId": "receive_webhook" + ("_with_token" if len(parameters) > 1 else ""),
                "parameters": parameters,
                "requestBody": body,
                "responses": responses,
                "security": [],
            }
        }
    document["paths"][f"{prefix}/webhooks/{BY_SIGNATURE}"] = {
        "post": {
            "tags": ["aliases"],
            "summary": "Receive a webhook of a provider that signs (older name)",
            "description": "Use `POST /webhooks/{provider}`. The provider is the one whose signature's header the request "
            "carries; with none of them, or with those of several, it is refused.",
            "operationId": "receive_webhook_by_signature",
            "deprecated": True,
            "requestBody": body,
            "responses": {status: value for status, value in responses.items() if status != "404"},
            "security": [],
        }
    }


def dead_letters_router(
    dead_letters: DeadLetters, queue: SpooledQueue, identity: IdentityService, limiter: RateLimiter, clock: Clock
) -> APIRouter:
    router = APIRouter(prefix="/webhooks/dead-letters", tags=["webhooks"])
    reader = current_principal(identity, scope="webhooks:admin", admin=True, limiter=limiter, group="read")
    writer = current_principal(identity, scope="webhooks:admin", admin=True, limiter=limiter, group="write")

    @router.get(
        "",
        summary="List dead letters",
        response_model=DeadLetterPageView,
        responses=problem_responses(400, 401, 403, 422, 429, 503),
    )
    async def list_dead_letters(
        principal: Annotated[Principal, Depends(reader)],
        cursor: Annotated[UUID | None, Query(description="`next_cursor` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        replayed: Annotated[bool, Query(description="Also those that were replayed.")] = False,
        provider: Annotated[str | None, Query(pattern=r"^[a-z][a-z0-9_]{1,39}$")] = None,
        reason: Annotated[
            str | None, Query(min_length=1, max_length=200, pattern=PLAIN_TEXT, description="How their reason begins.")
        ] = None,
    ) -> FastAPIResponse:
        """For administrators: webhooks that could not be worked on, newest first, with the reason."""
        page = await dead_letters.list(
            WEBHOOKS,
            limit=limit,
            cursor=str(cursor) if cursor else None,
            provider=provider,
            reason=reason,
            include_replayed=replayed,
        )
        body = {"data": [_view(letter) for letter in page.items], "next_cursor": page.next_cursor}
        return FastAPIResponse(orjson.dumps(body), media_type="application/json")

    @router.post(
        "/matching/replay",  # three parts, because two are a provider's address with a token
        summary="Replay many dead letters",
        response_model=ReplayedView,
        responses=problem_responses(400, 401, 403, 413, 422, 429, 503),
    )
    async def replay_many(body: ReplayMany, principal: Annotated[Principal, Depends(writer)]) -> FastAPIResponse:
        """Puts all that fit into the queue again, oldest first, or shows with `dry_run` which they are."""
        dead_before = body.dead_before or clock()
        found, more = await dead_letters.matching(
            WEBHOOKS, dead_before, provider=body.provider, reason=body.reason, limit=body.limit
        )
        done = found if body.dry_run else await dead_letters.replay_each(found, queue, str(principal.id))
        answer = {
            "dry_run": body.dry_run,
            "data": [_view(letter) for letter in done],
            "has_more": more or len(done) < len(found),
            "dead_before": rfc3339(dead_before),
        }
        return FastAPIResponse(orjson.dumps(answer), media_type="application/json")

    @router.post(
        "/{dead_letter_id}/replay",
        status_code=202,
        summary="Replay a dead letter",
        response_model=ReplayView,
        responses=problem_responses(
            401, 403, 404, 422, 429, 503, errors=[Conflict("It was replayed before.", code="already_replayed")]
        ),
    )
    async def replay(dead_letter_id: UUID, principal: Annotated[Principal, Depends(writer)]) -> ReplayView:
        """Puts the webhook into the queue again, from the first rung."""
        message = await dead_letters.replay(dead_letter_id, queue, str(principal.id))
        return ReplayView(id=dead_letter_id, message_id=message.id)

    return router


def _view(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "provider": letter.message.headers.get("provider"),
        "message_id": letter.message.id,
        "reason": letter.reason,
        "attempts": letter.message.attempt,
        "dead_at": rfc3339(letter.dead_at),
        "replayed_at": rfc3339(letter.replayed_at) if letter.replayed_at else None,
        "replayed_by": letter.replayed_by,
        "size_bytes": len(letter.message.body),
    }
