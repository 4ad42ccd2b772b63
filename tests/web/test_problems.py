import json
from http import HTTPStatus

import asyncpg
import pytest
import structlog
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse

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
from payflow.infra.database import DatabaseAway
from payflow.web.problems import problem_responses
from tests.web.conftest import MakeApp, MakeClient

TOKEN = "0123456789abcdef" * 4


class Login(BaseModel):
    email: str
    password: SecretStr
    limit: int


def raising(error: Exception):
    def routes(app: FastAPI) -> None:
        @app.get("/thing")
        async def thing() -> None:
            raise error

        @app.get("/hooks/{token}")
        async def hook(token: str) -> None:
            raise error

    return routes


def taking_a_login(app: FastAPI) -> None:
    router = APIRouter()

    @router.post("/login", responses=problem_responses(400, 422))
    async def login(body: Login, page: int = 1) -> None: ...

    app.include_router(router, prefix="/api/v1")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PayFlowError(), 500, "internal_error"),
        (Malformed(), 400, "malformed_request"),
        (NotAuthenticated(), 401, "not_authenticated"),
        (Declined(), 402, "declined"),
        (Forbidden(), 403, "forbidden"),
        (NotFound(), 404, "not_found"),
        (Conflict(code="email_taken"), 409, "email_taken"),
        (InFlight(), 409, "in_flight"),
        (TooLarge(), 413, "body_too_large"),
        (Invalid(), 422, "invalid_request"),
        (RateLimited(), 429, "rate_limited"),
        (ProviderUnavailable(), 502, "provider_unavailable"),
        (Unavailable(), 503, "unavailable"),
    ],
)
async def test_every_error_of_ours_is_a_problem(
    make_app: MakeApp, client_of: MakeClient, error: PayFlowError, status: int, code: str
) -> None:
    answer = await client_of(make_app(raising(error))).get("/thing", headers={"Request-Id": "abc"})

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": f"urn:payflow:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": error.detail,
        "instance": "/thing",
        "code": code,
        "errors": [],
        "request_id": "abc",
    }


@pytest.mark.parametrize(
    ("error", "retry_after"),
    [
        (RateLimited(retry_after=7), "7"),
        (RateLimited(), "60"),
        (Unavailable(), "5"),
        (InFlight(), "1"),
        (InFlight(retry_after=3), "3"),
        (Conflict(), None),
    ],
)
async def test_retry_after_is_sent_where_waiting_helps(
    make_app: MakeApp, client_of: MakeClient, error: PayFlowError, retry_after: str | None
) -> None:
    answer = await client_of(make_app(raising(error))).get("/thing")

    assert answer.headers.get("retry-after") == retry_after


async def test_a_401_says_how_to_authenticate(make_app: MakeApp, client_of: MakeClient) -> None:
    plain = await client_of(make_app(raising(NotAuthenticated()))).get("/thing")
    refused = await client_of(make_app(raising(NotAuthenticated(code="invalid_token")))).get("/thing")

    assert plain.headers["www-authenticate"] == 'Bearer realm="payflow"'
    assert refused.headers["www-authenticate"] == 'Bearer realm="payflow", error="invalid_token"'


async def test_members_of_an_error_are_added_but_replace_none(make_app: MakeApp, client_of: MakeClient) -> None:
    error = ProviderUnavailable(
        errors=[FieldError("/body/provider", "away")], extra={"transaction_id": "t1", "status": "x"}
    )
    body = (await client_of(make_app(raising(error))).get("/thing")).json()

    assert body["transaction_id"] == "t1"
    assert body["status"] == 502
    assert body["errors"] == [{"pointer": "/body/provider", "detail": "away"}]


async def test_a_capability_token_in_the_path_is_not_repeated(make_app: MakeApp, client_of: MakeClient) -> None:
    answer = await client_of(make_app(raising(NotFound()))).get(f"/hooks/{TOKEN}")

    assert answer.json()["instance"] == "/hooks/[redacted]"
    assert TOKEN not in answer.text


async def test_invalid_fields_are_named_by_pointer_and_never_quoted(make_app: MakeApp, client_of: MakeClient) -> None:
    answer = await client_of(make_app(taking_a_login)).post(
        "/api/v1/login?page=x", json={"password": ["hunter2hunter2"], "limit": "4929000000006", "email": 3}
    )

    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"
    assert [entry["pointer"] for entry in answer.json()["errors"]] == ["/query/page", "/body/email", "/body/password"]
    assert answer.json()["errors"][1]["detail"] == "Input should be a valid string"
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    "body", [b"{", b'{"a": }', b"\xff\xfe\x00", b"[" * 100_000, b'{"limit": ' + b"9" * 5000 + b"}"]
)
async def test_a_body_that_cannot_be_read_is_a_400(make_app: MakeApp, client_of: MakeClient, body: bytes) -> None:
    answer = await client_of(make_app(taking_a_login)).post(
        "/api/v1/login", content=body, headers={"content-type": "application/json"}
    )

    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


async def test_a_lone_surrogate_is_answered_in_utf8(make_app: MakeApp, client_of: MakeClient) -> None:
    def routes(app: FastAPI) -> None:
        @app.post("/numbers")
        async def numbers(body: dict[str, int]) -> None: ...

    field_name = await client_of(make_app(routes)).post(
        "/numbers", content=rb'{"\ud800": "x"}', headers={"content-type": "application/json"}
    )
    error = Invalid("No such bank: \ud800", errors=[FieldError("/body/\ud800", "x")], extra={"known": ["\udfff", 1]})
    quoted = await client_of(make_app(raising(error))).get("/thing")

    assert field_name.status_code == 422
    assert field_name.json()["errors"][0]["detail"]
    assert quoted.json()["detail"] == "No such bank: ?"
    assert quoted.json()["errors"][0]["pointer"] == "/body/?"
    assert quoted.json()["known"] == ["?", 1]


async def test_other_statuses_of_the_framework_are_problems_too(make_app: MakeApp, client_of: MakeClient) -> None:
    unsupported = await client_of(make_app(raising(HTTPException(415, "x")))).get("/thing")
    unchanged = await client_of(make_app(raising(HTTPException(304, headers={"ETag": "1"})))).get("/thing")

    assert (unsupported.status_code, unsupported.json()["code"]) == (415, "unsupported_media_type")
    assert unsupported.json()["detail"] == "Unsupported media type."
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", "1")


async def test_an_unknown_path_is_a_404_problem(make_app: MakeApp, client_of: MakeClient) -> None:
    answer = await client_of(make_app()).get("/nowhere")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_allow_names_every_method_of_every_route_at_the_path(make_app: MakeApp, client_of: MakeClient) -> None:
    async def raw(request: Request) -> PlainTextResponse:
        return PlainTextResponse("x")

    def routes(app: FastAPI) -> None:
        inner, outer = APIRouter(prefix="/things"), APIRouter()

        @inner.get("/{thing_id}")
        async def read(thing_id: int) -> None: ...

        @outer.delete("/things/{thing_id}")
        async def remove(thing_id: int) -> None: ...

        outer.include_router(inner)
        app.include_router(outer, prefix="/api/v1")
        app.add_route("/raw", raw, methods=["POST"])

    client = client_of(make_app(routes))
    routed = await client.put("/api/v1/things/1")
    assert (routed.status_code, routed.json()["code"]) == (405, "method_not_allowed")
    assert routed.headers["allow"] == "DELETE, GET"
    assert (await client.get("/raw")).headers["allow"] == "POST"
    assert (await client.post("/docs/assets/favicon.png")).headers["allow"] == "GET, HEAD"


async def test_an_unexpected_error_is_logged_and_answered_without_its_words(
    make_app: MakeApp, client_of: MakeClient
) -> None:
    with structlog.testing.capture_logs() as entries:
        answer = await client_of(make_app(raising(RuntimeError("SELECT secret FROM users")))).get("/thing")

    assert answer.status_code == 500
    assert answer.json()["detail"] == "Something went wrong on our side."
    assert answer.headers["request-id"] == answer.json()["request_id"]
    assert "SELECT" not in answer.text
    assert entries == [
        {"event": "request.failed", "method": "GET", "path": "/thing", "exc_info": True, "log_level": "error"}
    ]


class QueueAway(Exception):
    pass


async def test_parts_that_are_away_are_a_503(make_app: MakeApp, client_of: MakeClient) -> None:
    away = {QueueAway: lambda _: Unavailable("The queue is away.", code="queue_away", retry_after=9)}
    database = await client_of(make_app(raising(DatabaseAway("postgresql://u:secret@h/db")))).get("/thing")
    queue = await client_of(make_app(raising(QueueAway("amqp://u:secret@h")), away=away)).get("/thing")

    assert (database.status_code, database.json()["code"], database.headers["retry-after"]) == (503, "unavailable", "2")
    assert (queue.status_code, queue.json()["code"], queue.headers["retry-after"]) == (503, "queue_away", "9")
    assert "secret" not in database.text + queue.text


async def test_text_that_postgresql_cannot_store_is_the_callers_mistake(
    make_app: MakeApp, client_of: MakeClient
) -> None:
    error = asyncpg.CharacterNotInRepertoireError('invalid byte sequence for encoding "UTF8": 0x00')
    answer = await client_of(make_app(raising(error))).get("/thing")

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_documented_problems_use_one_schema_and_carry_an_example(make_app: MakeApp) -> None:
    document = make_app(taking_a_login).openapi()
    answer = document["paths"]["/api/v1/login"]["post"]["responses"]["422"]

    assert list(answer["content"]) == ["application/problem+json"]
    content = answer["content"]["application/problem+json"]
    assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert content["examples"]["invalid_request"]["value"]["status"] == 422
    assert "HTTPValidationError" not in json.dumps(document)
    assert {"Problem", "FieldProblem"} <= set(document["components"]["schemas"])


def test_fastapis_own_422_is_documented_as_a_problem(make_app: MakeApp) -> None:
    def routes(app: FastAPI) -> None:
        @app.get("/things")
        async def things(page: int) -> None: ...

    document = make_app(routes).openapi()

    assert list(document["paths"]["/things"]["get"]["responses"]["422"]["content"]) == ["application/problem+json"]
    assert "HTTPValidationError" not in json.dumps(document)


def test_several_codes_of_one_status_are_examples_of_it() -> None:
    responses = problem_responses(
        401, 429, errors=[NotAuthenticated(code="token_reused"), NotAuthenticated(code="invalid_token")]
    )

    assert list(responses) == [401, 429]
    assert list(responses[401]["content"]["application/problem+json"]["examples"]) == ["token_reused", "invalid_token"]
    assert "WWW-Authenticate" in responses[401]["headers"]
    assert "Retry-After" in responses[429]["headers"]
    assert (
        HTTPStatus(401)
        == responses[401]["content"]["application/problem+json"]["examples"]["token_reused"]["value"]["status"]
    )
