"""Every refusal as RFC 9457 `application/problem+json`, from whatever raised it.

    raise Conflict("An account with this address exists.", code="email_taken")

answers 409 with `type`, `title`, `status`, `detail`, `instance`, `code`, `errors` and `request_id`. Values the caller sent
are never repeated in an answer, since a password or an OTP may be among them; neither are traces nor SQL.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import asyncpg
import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from payflow.core.errors import (
    Conflict,
    Declined,
    FieldError,
    Forbidden,
    InFlight,
    Invalid,
    Malformed,
    NotAuthenticated,
    NotFound,
    PayFlowError,
    ProviderUnavailable,
    RateLimited,
    TooLarge,
    Unavailable,
)
from payflow.core.logging import get_logger, redact_text
from payflow.infra.database import DatabaseAway
from payflow.web.paths import masked_path

log = get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
REALM = 'Bearer realm="payflow"'

ErrorFactory = Callable[[Exception], PayFlowError]

_RETRY_AFTER_SECONDS = {429: 60, 503: 5}
_BY_STATUS: dict[int, type[PayFlowError]] = {
    kind.status.value: kind
    for kind in (
        PayFlowError,
        Malformed,
        NotAuthenticated,
        Declined,
        Forbidden,
        NotFound,
        Conflict,
        TooLarge,
        Invalid,
        RateLimited,
        ProviderUnavailable,
        Unavailable,
    )
}
_RESERVED = frozenset({"type", "title", "status", "detail", "instance", "code", "errors", "request_id"})


class FieldProblem(BaseModel):
    pointer: str = Field(description="RFC 6901 pointer: `/body/…`, `/query/…`, `/path/…` or `/header/…`.")
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details. Some codes add members of their own, such as `transaction_id`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A stable URI of the kind of problem: `urn:payflow:problem:` and the code.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path that was asked for.")
    code: str = Field(description="Stable; what programs should look at.")
    errors: list[FieldProblem] = Field(default_factory=list)
    request_id: str = Field(description="Repeated in the `Request-Id` header and in the logs.")


class BodyTooLarge(HTTPException):
    """Raised while the body is read. An HTTPException because FastAPI turns any other error there into a 400."""

    def __init__(self) -> None:
        super().__init__(413)


def install_problem_handlers(app: FastAPI, away: Mapping[type[Exception], ErrorFactory] | None = None) -> None:
    """`away` names further exceptions and what they mean to a caller, as in `{QueueAway: lambda _: Unavailable(…)}`.

    PostgreSQL or Redis being unreachable is 503 already. An exception that nobody named is answered by
    `UnexpectedErrors`, which has to be the innermost middleware (see `web.application`).
    """
    factories: dict[type[Exception], ErrorFactory] = {
        DatabaseAway: lambda _: Unavailable("The database is away for the moment.", retry_after=2),
        RedisError: lambda _: Unavailable("A part of the service is away for the moment.", retry_after=2),
        # PostgreSQL stores no NUL in text; whatever model let one through, it is the caller's text that is wrong.
        asyncpg.CharacterNotInRepertoireError: lambda _: Invalid("A text holds a character that cannot be stored."),
        **(away or {}),
    }

    async def on_error(request: Request, error: Exception) -> Response:
        return error_response(request.scope, error)

    def translated(factory: ErrorFactory) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def on_named_error(request: Request, error: Exception) -> Response:
            log.warning("request.unavailable", error=type(error).__name__, path=masked_path(request.scope["path"]))
            return error_response(request.scope, factory(error))

        return on_named_error

    for kind in (PayFlowError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, on_error)
    for kind, factory in factories.items():
        app.add_exception_handler(kind, translated(factory))
    _document(app)


class UnexpectedErrors:
    """The innermost middleware: whatever nobody handled becomes a 500 problem, logged with its trace, never shown.

    Starlette's own catch-all stands outside every middleware, so its answers would lack request id, CORS and metrics.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except Exception as error:
            if started:
                raise
            if not isinstance(error, PayFlowError | HTTPException):
                log.exception("request.failed", method=scope["method"], path=masked_path(scope["path"]))
            await error_response(scope, error)(scope, receive, send)


def error_response(scope: Scope, error: Exception) -> Response:
    """The problem that an exception amounts to; 500 for one of a kind not known here."""
    headers: dict[str, str] = {}
    if isinstance(error, RequestValidationError):
        known: PayFlowError = _from_validation(error)
    elif isinstance(error, HTTPException):
        if error.status_code < 400 or error.status_code in (204, 304):
            return Response(status_code=error.status_code, headers=error.headers)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed_methods(scope))
        known = _from_http_exception(error)
    else:
        known = error if isinstance(error, PayFlowError) else PayFlowError()
    return problem_response(scope, known, headers)


def problem_response(scope: Scope, error: PayFlowError, headers: Mapping[str, str] | None = None) -> Response:
    status = error.status.value
    sent = dict(headers or {})
    if status == 401:
        sent["WWW-Authenticate"] = f'{REALM}, error="invalid_token"' if error.code == "invalid_token" else REALM
    wait = error.retry_after or _RETRY_AFTER_SECONDS.get(status) or (1 if isinstance(error, InFlight) else None)
    if wait is not None:
        sent.setdefault("Retry-After", str(wait))
    state = scope.get("state") or {}
    body = problem_body(error, status, masked_path(scope["path"]), state.get("request_id", ""))
    return Response(_json(body), status_code=status, headers=sent, media_type=MEDIA_TYPE)


def problem_body(error: PayFlowError, status: int, instance: str, request_id: str) -> dict[str, Any]:
    return {
        "type": f"urn:payflow:problem:{error.code}",
        "title": _title(error.code),
        "status": status,
        "detail": error.detail,
        "instance": instance,
        "code": error.code,
        "errors": [{"pointer": entry.pointer, "detail": entry.detail} for entry in error.errors],
        "request_id": request_id,
        **{name: value for name, value in error.extra.items() if name not in _RESERVED},
    }


def problem_responses(*statuses: int, errors: Sequence[PayFlowError] = ()) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route: one entry per status, with the schema and an example of each.

    `errors` adds examples of particular codes: `problem_responses(401, errors=[Conflict("…", code="email_taken")])`.
    """
    examples: dict[int, list[PayFlowError]] = {status: [] for status in statuses}
    for error in errors:
        examples.setdefault(error.status.value, []).append(error)
    return {status: _documented(status, examples[status]) for status in sorted(examples)}


def _documented(status: int, errors: Iterable[PayFlowError]) -> dict[str, Any]:
    shown = list(errors) or [_example(status)]
    response: dict[str, Any] = {
        "description": _BY_STATUS[status].__doc__ if status in _BY_STATUS else HTTPStatus(status).phrase,
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {
                    error.code: {
                        "value": problem_body(error, status, "/api/v1/…", "0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50")
                    }
                    for error in shown
                },
            }
        },
    }
    headers: dict[str, Any] = {}
    if status in (429, 503):
        headers["Retry-After"] = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
    if status == 401:
        headers["WWW-Authenticate"] = {"description": "How to authenticate.", "schema": {"type": "string"}}
    if status == 429:
        headers["RateLimit"] = {"description": "What is left of the limit.", "schema": {"type": "string"}}
        headers["RateLimit-Policy"] = {"description": "The limit.", "schema": {"type": "string"}}
    if headers:
        response["headers"] = headers
    return response


def _example(status: int) -> PayFlowError:
    kind = _BY_STATUS.get(status)
    if kind is None:
        return _other_status(status)
    return kind(errors=[FieldError("/body/amount", "Field required")]) if kind is Invalid else kind()


def _from_validation(error: RequestValidationError) -> PayFlowError:
    problems = error.errors()
    if any(entry["type"] == "json_invalid" for entry in problems):
        return Malformed("The body is not valid JSON.")
    return Invalid(errors=[FieldError(_pointer(entry["loc"]), _message(entry)) for entry in problems[:50]])


def _message(entry: Mapping[str, Any]) -> str:
    return redact_text(str(entry["msg"]).removeprefix("Value error, "))


def _pointer(location: Sequence[int | str]) -> str:
    """Of a member that nobody knows the name is the caller's own text, as a value is."""
    return redact_text("".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location))


def _from_http_exception(error: HTTPException) -> PayFlowError:
    kind = _BY_STATUS.get(error.status_code)
    if kind is None:
        return _other_status(error.status_code)
    return kind("The request body could not be read.") if kind is Malformed else kind()


def _other_status(status: int) -> PayFlowError:
    """An error of a status that no class of ours has (405, 406, 415 …)."""
    known = HTTPStatus(status)
    error = PayFlowError(known.phrase.capitalize() + ".", code=known.phrase.lower().replace(" ", "_").replace("-", "_"))
    error.status = known
    return error


def _title(code: str) -> str:
    return code.replace("_", " ").capitalize()


def _allowed_methods(scope: Scope) -> list[str]:
    """Every method that some route takes at this path. Starlette names those of the first route only."""
    routes: list[BaseRoute] = scope["app"].routes
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    methods: set[str] = set()
    for context in iter_route_contexts(routes):
        expression = getattr(context, "path_regex", None)
        if context.methods and expression is not None and expression.match(path):
            methods |= context.methods
    return sorted(methods) or ["GET", "HEAD"]


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:
        # A lone surrogate, sent as part of a field's name, has no UTF-8 form.
        return orjson.dumps(_encodable(body))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_encodable(str(name)): _encodable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value if isinstance(value, int | float | bool | None) else str(value)


def _document(app: FastAPI) -> None:
    """Put the Problem schema into the OpenAPI document and use it for FastAPI's own 422 answers."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _use_problems(original())
        return original()

    app.openapi = openapi  # type: ignore[method-assign]


def _use_problems(document: dict[str, Any]) -> None:
    schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas["Problem"] = schema
    for operations in document.get("paths", {}).values():
        for operation in operations.values():
            answer = operation.get("responses", {}).get("422") if isinstance(operation, dict) else None
            if answer and "application/json" in answer.get("content", {}):
                operation["responses"]["422"] = _documented(422, ())
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
