import asyncio
import re
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import Depends, FastAPI, Request

from payflow.core.errors import NotAuthenticated
from payflow.identity.dependencies import current_principal
from payflow.identity.principals import ADMIN_SCOPES, USER_SCOPES, Principal
from payflow.identity.service import MOST_API_KEYS, IdentityService
from payflow.infra.database import Database
from payflow.web.rate_limits import RateLimiter
from tests.identity.conftest import Account, Events, MakeIdentity, MovableClock, client_of, new_account, row_count


async def new_key(client: httpx.AsyncClient, account: Account, **body: object) -> dict:
    answer = await client.post("/auth/api-keys", json={"name": "till", **body}, headers=account.bearer)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_key_is_shown_once_and_stored_as_a_digest(
    client: httpx.AsyncClient, account: Account, database: Database, events: Events
) -> None:
    created = await new_key(client, account, scopes=["payments:write", "payments:read", "payments:read"])
    listed = await client.get("/auth/api-keys", headers=account.bearer)
    async with database.raw() as connection:
        row = await connection.fetchrow("SELECT * FROM api_keys WHERE id = $1", UUID(created["id"]))

    assert re.fullmatch(rf"pf_key_{created['prefix']}_[0-9a-f]{{64}}", created["key"])
    assert created["scopes"] == ["payments:read", "payments:write"]
    assert (created["expires_at"], created["last_used_at"], created["revoked_at"]) == (None, None, None)
    assert listed.json()["items"] == [{name: created[name] for name in created if name != "key"}]
    assert created["key"].rpartition("_")[2] not in repr(dict(row))
    assert len(row["secret_digest"]) == 32
    assert [entry[:3] for entry in events.seen] == [
        (
            "api_key.created",
            account.id,
            {"api_key_id": created["id"], "prefix": created["prefix"], "scopes": ["payments:read", "payments:write"]},
        )
    ]


async def test_a_key_authenticates_by_its_own_header_or_as_bearer(client: httpx.AsyncClient, account: Account) -> None:
    created = await new_key(client, account)
    own = await client.get("/auth/me", headers={"X-API-Key": created["key"]})
    bearer = await client.get("/auth/me", headers={"Authorization": f"bearer {created['key']}"})

    assert own.status_code == bearer.status_code == 200
    assert own.json() == bearer.json()
    assert (own.json()["id"], own.json()["authenticated_by"]) == (str(account.id), "api_key")
    assert own.json()["scopes"] == sorted(USER_SCOPES)


async def test_a_key_manages_no_keys(client: httpx.AsyncClient, account: Account, database: Database) -> None:
    created = await new_key(client, account)
    header = {"X-API-Key": created["key"]}
    answers = [
        await client.get("/auth/api-keys", headers=header),
        await client.post("/auth/api-keys", json={"name": "child"}, headers=header),
        await client.delete(f"/auth/api-keys/{created['id']}", headers=header),
        await client.post("/auth/logout", headers={"Authorization": f"Bearer {created['key']}"}),
    ]

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(403, "login_required")] * 4
    assert await row_count(database, "api_keys", "user_id = $1 AND revoked_at IS NULL", account.id) == 1


@pytest.mark.parametrize(
    "change", [lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"), str.upper, lambda k: k + "0"]
)
async def test_a_key_that_differs_in_anything_is_refused(
    client: httpx.AsyncClient, account: Account, database: Database, change
) -> None:
    created = await new_key(client, account)
    answer = await client.get("/auth/me", headers={"X-API-Key": change(created["key"])})

    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_api_key")
    assert await row_count(database, "api_keys", "id = $1 AND last_used_at IS NULL", UUID(created["id"])) == 1


async def test_scopes_beyond_the_role_are_refused(
    client: httpx.AsyncClient, account: Account, database: Database
) -> None:
    answer = await client.post(
        "/auth/api-keys", json={"name": "x", "scopes": ["payments:read", "config:admin"]}, headers=account.bearer
    )

    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    assert answer.json()["detail"] == "Your role does not include config:admin."
    assert await row_count(database, "api_keys", "user_id = $1", account.id) == 0


async def test_an_admins_key_is_an_admin_only_by_an_admin_scope(identity: IdentityService) -> None:
    admin = await new_account(identity, admin=True)
    principal = await identity.authenticate(bearer=admin.tokens.access_token)
    _, plain = await identity.create_api_key(principal, "plain")
    _, strong = await identity.create_api_key(principal, "strong", ["config:admin"])

    assert principal.is_admin
    assert principal.scopes == frozenset(USER_SCOPES + ADMIN_SCOPES)
    assert not (await identity.authenticate(api_key=plain)).is_admin
    strong_principal = await identity.authenticate(api_key=strong)
    assert strong_principal.is_admin
    assert strong_principal.scopes == {"config:admin"}


async def test_a_key_ends_when_it_was_to_end_also_where_it_is_remembered(
    client: httpx.AsyncClient, identity: IdentityService, account: Account, clock: MovableClock
) -> None:
    ends = clock() + timedelta(seconds=10)
    created = await new_key(client, account, expires_at=ends.isoformat())
    clock.advance(8)
    principal = await identity.authenticate(api_key=created["key"])
    assert principal.expires_at == ends
    assert await identity.is_still_valid(principal)
    clock.advance(2)

    with pytest.raises(NotAuthenticated):
        await identity.authenticate(api_key=created["key"])
    assert not await identity.is_still_valid(principal)


@pytest.mark.parametrize("ends", ["2020-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
async def test_an_end_in_the_past_or_too_far_ahead_is_invalid(
    client: httpx.AsyncClient, account: Account, database: Database, ends: str
) -> None:
    answer = await client.post("/auth/api-keys", json={"name": "x", "expires_at": ends}, headers=account.bearer)

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/body/expires_at"]
    assert await row_count(database, "api_keys", "user_id = $1", account.id) == 0


async def test_a_revoked_key_is_refused_here_at_once_and_elsewhere_within_five_seconds(
    client: httpx.AsyncClient,
    identity: IdentityService,
    make_identity: MakeIdentity,
    account: Account,
    clock: MovableClock,
    events: Events,
) -> None:
    elsewhere = make_identity()
    created = await new_key(client, account)
    principal = await elsewhere.authenticate(api_key=created["key"])
    await identity.authenticate(api_key=created["key"])
    assert await elsewhere.is_still_valid(principal)
    answer = await client.delete(f"/auth/api-keys/{created['id']}", headers=account.bearer)

    assert (answer.status_code, answer.content) == (204, b"")
    with pytest.raises(NotAuthenticated):
        await identity.authenticate(api_key=created["key"])
    await elsewhere.authenticate(api_key=created["key"])
    clock.advance(4)
    with pytest.raises(NotAuthenticated):
        await elsewhere.authenticate(api_key=created["key"])
    assert not await elsewhere.is_still_valid(principal)
    assert events.types == ["api_key.created", "api_key.revoked"]
    listed = (await client.get("/auth/api-keys", headers=account.bearer)).json()["items"]
    assert listed[0]["revoked_at"] is not None


async def test_a_key_is_revoked_once_and_only_by_its_owner(
    client: httpx.AsyncClient, identity: IdentityService, account: Account, database: Database
) -> None:
    created = await new_key(client, account)
    stranger = await new_account(identity)
    path = f"/auth/api-keys/{created['id']}"

    foreign = await client.delete(path, headers=stranger.bearer)
    assert (foreign.status_code, foreign.json()["code"]) == (404, "not_found")
    assert await row_count(database, "api_keys", "id = $1 AND revoked_at IS NULL", UUID(created["id"])) == 1
    assert (await client.get("/auth/api-keys", headers=stranger.bearer)).json() == {"items": []}
    own = [(await client.delete(path, headers=account.bearer)).status_code for _ in range(2)]
    assert own == [204, 404]
    assert (await client.delete(f"/auth/api-keys/{uuid4()}", headers=account.bearer)).status_code == 404
    assert (await client.delete("/auth/api-keys/x", headers=account.bearer)).status_code == 422


async def test_last_use_is_written_at_most_once_a_minute(
    client: httpx.AsyncClient, identity: IdentityService, account: Account, clock: MovableClock, database: Database
) -> None:
    created = await new_key(client, account)

    async def last_used() -> datetime:
        async with database.raw() as connection:
            return await connection.fetchval("SELECT last_used_at FROM api_keys WHERE id = $1", UUID(created["id"]))

    first = clock()
    await identity.authenticate(api_key=created["key"])
    assert await last_used() == first
    for _ in range(11):
        clock.advance(5)
        await identity.authenticate(api_key=created["key"])
    assert await last_used() == first
    clock.advance(5)
    await identity.authenticate(api_key=created["key"])
    assert await last_used() == first + timedelta(seconds=60)


async def test_many_requests_with_one_key_ask_the_database_once(
    client: httpx.AsyncClient, make_identity: MakeIdentity, account: Account
) -> None:
    identity = make_identity()
    created = await new_key(client, account)
    loads = 0
    load = identity._load_api_key

    async def counted(prefix: str, digest: bytes) -> Principal:
        nonlocal loads
        loads += 1
        return await load(prefix, digest)

    identity._load_api_key = counted
    await asyncio.gather(*(identity.authenticate(api_key=created["key"]) for _ in range(100)))

    assert loads == 1


async def test_a_user_has_at_most_fifty_usable_keys(
    client: httpx.AsyncClient, identity: IdentityService, account: Account, database: Database
) -> None:
    principal = await identity.authenticate(bearer=account.tokens.access_token)
    for number in range(MOST_API_KEYS - 1):
        await identity.create_api_key(principal, f"key {number}")
    answers = await asyncio.gather(
        *(client.post("/auth/api-keys", json={"name": "last"}, headers=account.bearer) for _ in range(4))
    )

    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["code"] == "too_many_api_keys"
    assert await row_count(database, "api_keys", "user_id = $1", account.id) == MOST_API_KEYS


@pytest.fixture
def guarded(app: FastAPI, identity: IdentityService, limiter: RateLimiter) -> FastAPI:
    reader = current_principal(identity, scope="payments:read", limiter=limiter, group="read")

    @app.get("/api/v1/payments")
    async def payments(request: Request, principal: Annotated[Principal, Depends(reader)]) -> str:
        assert request.state.principal is principal
        return principal.key()

    @app.get("/api/v1/admin", dependencies=[Depends(current_principal(identity, admin=True))])
    async def admin() -> None: ...

    return app


async def test_an_endpoint_asks_for_its_scope(guarded: FastAPI, account: Account) -> None:
    async with client_of(guarded) as client:
        fitting = await new_key(client, account, scopes=["payments:read"])
        lacking = await new_key(client, account, scopes=["wallet:read"])
        allowed = await client.get("/payments", headers={"X-API-Key": fitting["key"]})
        refused = await client.get("/payments", headers={"X-API-Key": lacking["key"]})

    assert (allowed.status_code, allowed.json()) == (200, str(account.id))
    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert refused.json()["detail"] == "This needs the scope payments:read."


async def test_an_admins_endpoint_takes_admins_only(
    guarded: FastAPI, identity: IdentityService, account: Account
) -> None:
    admin = await new_account(identity, admin=True)
    async with client_of(guarded) as client:
        refused = await client.get("/admin", headers=account.bearer)
        allowed = await client.get("/admin", headers=admin.bearer)

    assert (refused.status_code, refused.json()["code"]) == (403, "admin_only")
    assert allowed.status_code == 200


async def test_sessions_and_keys_of_a_user_share_a_limit_and_strangers_count_by_address(
    guarded: FastAPI, account: Account, identity: IdentityService
) -> None:
    other = await new_account(identity)
    async with client_of(guarded) as client:
        key = await new_key(client, account)
        remaining = [
            (await client.get("/payments", headers=headers)).headers["ratelimit"].split(";")[1]
            for headers in (account.bearer, {"X-API-Key": key["key"]}, other.bearer, {}, {"Authorization": "Bearer x"})
        ]

    assert remaining == ["r=2999", "r=2998", "r=2999", "r=2999", "r=2998"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "not_authenticated"),
        ({"Authorization": "Basic YTpi"}, "not_authenticated"),
        ({"Authorization": "Bearer"}, "invalid_token"),
        ({"Authorization": "Bearer \xff".encode("latin-1")}, "invalid_token"),
        ({"X-API-Key": "pf_key_"}, "invalid_api_key"),
        ({"X-API-Key": ""}, "invalid_api_key"),
    ],
)
async def test_without_a_good_credential_the_answer_is_401(guarded: FastAPI, headers: dict, code: str) -> None:
    async with client_of(guarded) as client:
        answer = await client.get("/payments", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer.headers["www-authenticate"].startswith('Bearer realm="payflow"')


def test_the_three_ways_to_authenticate_are_documented(app: FastAPI) -> None:
    document = app.openapi()

    schemes = document["components"]["securitySchemes"]
    assert schemes["Password"]["flows"]["password"]["tokenUrl"] == "/api/v1/auth/token"
    assert (schemes["AccessToken"]["type"], schemes["AccessToken"]["scheme"]) == ("http", "bearer")
    assert (schemes["ApiKey"]["in"], schemes["ApiKey"]["name"]) == ("header", "X-API-Key")
    me = document["paths"]["/api/v1/auth/me"]["get"]
    assert me["security"] == [{"Password": []}, {"AccessToken": []}, {"ApiKey": []}]


def test_every_operation_is_described_with_examples_and_problems(app: FastAPI) -> None:
    document = app.openapi()

    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["description"], path
            assert operation["tags"] == ["auth"], path
            assert {"401", "429", "503"} <= set(operation["responses"]) | ({"401"} if "register" in path else set())
            for status, answer in operation["responses"].items():
                if status >= "400":
                    assert list(answer["content"]) == ["application/problem+json"]
    for name, schema in document["components"]["schemas"].items():
        if name not in {"Problem", "FieldProblem", "TokenForm"}:
            assert schema["examples"], name
