import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from passlib.context import CryptContext

from payflow.core.crypto import derive_key
from payflow.core.errors import NotAuthenticated
from payflow.core.settings import Settings
from payflow.identity.service import IdentityService
from payflow.infra.database import Database
from payflow.infra.redis import connect_redis
from payflow.web.rate_limits import RateLimiter
from tests.identity.conftest import (
    PASSWORD,
    Account,
    Events,
    MakeIdentity,
    MovableClock,
    assembled,
    client_of,
    new_account,
    new_email,
    row_count,
)


async def test_a_user_registers_logs_in_and_asks_who_it_is(client: httpx.AsyncClient, events: Events) -> None:
    email = new_email()
    registered = await client.post(
        "/auth/register", json={"email": email.upper(), "password": PASSWORD, "name": "Amina Yusuf"}
    )
    tokens = await client.post("/auth/login", json={"email": email.title(), "password": PASSWORD})
    me = await client.get("/auth/me", headers={"Authorization": f"Bearer {tokens.json()['access_token']}"})

    assert registered.status_code == 201
    assert set(registered.json()) == {"id", "email", "name", "role", "created_at"}
    assert registered.json() | {"created_at": "", "id": ""} == {
        "id": "",
        "email": email,
        "name": "Amina Yusuf",
        "role": "user",
        "created_at": "",
    }
    assert tokens.status_code == 200
    assert tokens.json() | {"access_token": "", "refresh_token": ""} == {
        "access_token": "",
        "refresh_token": "",
        "token_type": "bearer",
        "expires_in": 900,
    }
    assert me.status_code == 200
    assert me.json()["id"] == registered.json()["id"]
    assert me.json()["authenticated_by"] == "access_token"
    assert "payments:write" in me.json()["scopes"]
    assert "config:admin" not in me.json()["scopes"]
    assert events.types == ["user.registered", "user.logged_in"]
    assert [(str(entry[1]), entry[3], entry[4]) for entry in events.seen] == [
        (registered.json()["id"], "198.51.100.7", "till/1.0")
    ] * 2


async def test_the_oauth2_form_logs_in_too(client: httpx.AsyncClient, account: Account) -> None:
    form = {"grant_type": "password", "username": account.email, "password": PASSWORD, "scope": ""}
    answer = await client.post("/auth/token", data=form)
    refused = await client.post("/auth/token", data={**form, "password": "wrong"})
    strange = await client.post("/auth/token", data={**form, "grant_type": "magic"})

    assert (answer.status_code, answer.json()["token_type"]) == (200, "bearer")
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_credentials")
    assert strange.status_code == 422


async def test_an_address_registers_once_whatever_its_case(
    client: httpx.AsyncClient, account: Account, database: Database, events: Events
) -> None:
    answer = await client.post(
        "/auth/register", json={"email": account.email.upper(), "password": PASSWORD, "name": "Other"}
    )

    assert (answer.status_code, answer.json()["code"]) == (409, "email_taken")
    assert await row_count(database, "users", "lower(email) = $1", account.email) == 1
    assert events.types == []


async def test_of_simultaneous_registrations_of_one_address_one_wins(
    client: httpx.AsyncClient, database: Database
) -> None:
    body = {"email": new_email(), "password": PASSWORD, "name": "A"}
    answers = await asyncio.gather(*(client.post("/auth/register", json=body) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    assert await row_count(database, "users", "email = $1", body["email"]) == 1


async def test_registration_can_be_closed(
    make_identity: MakeIdentity, database: Database, limiter: RateLimiter
) -> None:
    settings = Settings(_env_file=None, environment="test", registration_open=False)  # type: ignore[call-arg]
    email = new_email()
    async with client_of(assembled(make_identity(settings=settings), limiter, settings)) as client:
        answer = await client.post("/auth/register", json={"email": email, "password": PASSWORD, "name": "A"})

    assert (answer.status_code, answer.json()["code"]) == (403, "registration_closed")
    assert await row_count(database, "users", "email = $1", email) == 0


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"password": "short"}, "/body/password"),
        ({"password": "x" * 129}, "/body/password"),
        ({"password": "long enough\u0000"}, "/body/password"),
        ({"email": "nobody"}, "/body/email"),
        ({"email": "a\u0000@example.com"}, "/body/email"),
        ({"email": "x" * 250 + "@example.com"}, "/body/email"),
        ({"name": ""}, "/body/name"),
        ({"name": " Amina"}, "/body/name"),
        ({"name": "x" * 101}, "/body/name"),
        ({"name": "Ami\u0000na"}, "/body/name"),
        ({"role": "admin"}, "/body/role"),
    ],
)
async def test_a_registration_that_breaks_a_rule_names_the_field_and_makes_nobody(
    client: httpx.AsyncClient, database: Database, change: dict[str, str], pointer: str
) -> None:
    before = await row_count(database, "users")
    body = {"email": new_email(), "password": PASSWORD, "name": "Amina", **change}
    answer = await client.post("/auth/register", json=body)

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert body["password"] not in answer.text
    assert await row_count(database, "users") == before


@pytest.mark.parametrize(
    "body",
    [
        rb'{"email": "a@example.com", "password": "long enough \ud800", "name": "A"}',
        rb'{"email": "\ud800@example.com", "password": "long enough 1", "name": "A"}',
        rb'{"email": "a@example.com", "password": "long enough 1", "name": "\udfff"}',
        rb'{"email": "a@example.com", "password": "long enough 1", "name": "A", "\ud800": 1}',
        rb"[]",
        rb"null",
        rb'"text"',
    ],
)
async def test_odd_bodies_are_invalid_and_not_an_error_of_ours(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/auth/register", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_refused_logins_look_alike_and_are_recorded(
    client: httpx.AsyncClient, account: Account, events: Events, database: Database
) -> None:
    families = await row_count(database, "token_families")
    wrong = await client.post("/auth/login", json={"email": account.email, "password": "not this one"})
    nobody = await client.post("/auth/login", json={"email": new_email(), "password": "not this one"})

    assert wrong.status_code == nobody.status_code == 401
    assert wrong.headers["www-authenticate"] == 'Bearer realm="payflow"'
    hidden = {"request_id": ""}
    assert wrong.json() | hidden == nobody.json() | hidden
    assert [entry[:3] for entry in events.seen] == [
        ("user.login_refused", account.id, {"reason": "wrong_password"}),
        ("user.login_refused", None, {"reason": "unknown_email"}),
    ]
    assert await row_count(database, "token_families") == families


async def test_an_unknown_address_costs_what_a_wrong_password_costs(
    make_identity: MakeIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work is compared and not the time: one verification, against a hash of the same costs."""
    identity = make_identity()
    account = await new_account(identity)
    verified: list[str] = []
    verify = CryptContext.verify

    def counted(self: CryptContext, secret: str, stored: str, **more: Any) -> bool:
        verified.append(stored.rpartition("$")[0].rpartition("$")[0])  # variant, version and costs
        return bool(verify(self, secret, stored, **more))

    monkeypatch.setattr(CryptContext, "verify", counted)
    for email in (new_email(), account.email):
        with pytest.raises(NotAuthenticated):
            await identity.login(email, "not this one")
    unknown, wrong = verified
    assert unknown == wrong
    assert wrong.startswith("$argon2id$v=19$m=")


async def test_hashing_leaves_the_event_loop_free(make_identity: MakeIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, free = threading.Event(), threading.Event()
    hashing = CryptContext.hash

    def held(self: CryptContext, secret: str, **more: Any) -> str:
        begun.set()
        assert free.wait(20), "the event loop waits for the hash"
        return str(hashing(self, secret, **more))

    monkeypatch.setattr(CryptContext, "hash", held)
    registering = asyncio.create_task(make_identity().register(new_email(), PASSWORD, "A"))
    await asyncio.to_thread(begun.wait, 20)
    free.set()
    assert (await registering).name == "A"


async def test_a_login_renews_a_hash_of_older_costs(
    make_identity: MakeIdentity, account: Account, database: Database
) -> None:
    async def stored() -> str:
        async with database.raw() as connection:
            return await connection.fetchval("SELECT password_hash FROM users WHERE id = $1", account.id)

    before = await stored()
    await make_identity(password_cost=(128, 2, 1)).login(account.email, PASSWORD)
    after = await stored()

    assert before.startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert after.startswith("$argon2id$v=19$m=128,t=2,p=1$")
    await make_identity(password_cost=(128, 2, 1)).login(account.email, PASSWORD)
    assert await stored() == after


async def test_a_disabled_user_is_told_only_with_the_right_password(
    identity: IdentityService, client: httpx.AsyncClient, account: Account, events: Events
) -> None:
    await identity.disable_user(account.id)
    right = await client.post("/auth/login", json={"email": account.email, "password": PASSWORD})
    wrong = await client.post("/auth/login", json={"email": account.email, "password": "not this one"})

    assert (right.status_code, right.json()["code"]) == (403, "user_disabled")
    assert (wrong.status_code, wrong.json()["code"]) == (401, "invalid_credentials")
    assert events.types == ["user.disabled", "user.login_refused", "user.login_refused"]


async def test_a_refresh_token_is_exchanged_for_a_new_pair(client: httpx.AsyncClient, account: Account) -> None:
    first = await client.post("/auth/refresh", json={"refresh_token": account.tokens.refresh_token})
    second = await client.post("/auth/refresh", json={"refresh_token": first.json()["refresh_token"]})
    me = await client.get("/auth/me", headers={"Authorization": f"Bearer {second.json()['access_token']}"})

    assert (first.status_code, second.status_code, me.status_code) == (200, 200, 200)
    tokens = {account.tokens.refresh_token, first.json()["refresh_token"], second.json()["refresh_token"]}
    assert len(tokens) == 3


async def test_a_refresh_token_used_twice_ends_the_login_and_no_other(
    client: httpx.AsyncClient, identity: IdentityService, account: Account, database: Database, events: Events
) -> None:
    other = await identity.login(account.email, PASSWORD)
    fresh = (await client.post("/auth/refresh", json={"refresh_token": account.tokens.refresh_token})).json()
    reused = await client.post("/auth/refresh", json={"refresh_token": account.tokens.refresh_token})
    descendant = await client.post("/auth/refresh", json={"refresh_token": fresh["refresh_token"]})
    me = await client.get("/auth/me", headers={"Authorization": f"Bearer {fresh['access_token']}"})

    assert (reused.status_code, reused.json()["code"]) == (401, "token_reused")
    assert (descendant.status_code, descendant.json()["code"]) == (401, "token_revoked")
    assert (me.status_code, me.json()["code"]) == (401, "token_revoked")
    assert events.types.count("user.token_reused") == 1
    assert (await identity.authenticate(bearer=other.access_token)).id == account.id
    assert await row_count(database, "token_families", "user_id = $1 AND revoked_reason = 'reused'", account.id) == 1


async def test_of_simultaneous_uses_of_one_refresh_token_exactly_one_wins(
    client: httpx.AsyncClient, account: Account, database: Database
) -> None:
    body = {"refresh_token": account.tokens.refresh_token}
    answers = await asyncio.gather(*(client.post("/auth/refresh", json=body) for _ in range(10)))

    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 9
    assert {answer.json()["code"] for answer in answers if answer.status_code == 401} <= {
        "token_reused",
        "token_revoked",
    }
    family = "family_id = (SELECT id FROM token_families WHERE user_id = $1)"
    assert await row_count(database, "refresh_tokens", family, account.id) == 2


async def test_a_refresh_token_ends_after_its_time(
    client: httpx.AsyncClient, account: Account, clock: MovableClock, database: Database
) -> None:
    before = await row_count(database, "refresh_tokens")
    clock.advance(30 * 24 * 3600)
    answer = await client.post("/auth/refresh", json={"refresh_token": account.tokens.refresh_token})

    assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")
    assert await row_count(database, "refresh_tokens") == before


async def test_ended_tokens_are_deleted_and_living_ones_kept(
    identity: IdentityService, make_identity: MakeIdentity, account: Account, clock: MovableClock, database: Database
) -> None:
    living = await new_account(identity)
    later = MovableClock(clock() + timedelta(days=32))
    await make_identity(clock=MovableClock(clock() + timedelta(days=15))).refresh(living.tokens.refresh_token)

    assert await make_identity(clock=later).forget_expired_tokens() >= 2
    assert await row_count(database, "token_families", "user_id = $1", account.id) == 0
    assert await row_count(database, "token_families", "user_id = $1", living.id) == 1
    family = "family_id = (SELECT id FROM token_families WHERE user_id = $1)"
    assert await row_count(database, "refresh_tokens", family, living.id) == 1
    assert await make_identity(clock=later).forget_expired_tokens() == 0


@pytest.mark.parametrize("token", ["x", "0" * 64, "0" * 256, "'; DROP TABLE users; --"])
async def test_an_invented_refresh_token_is_refused(client: httpx.AsyncClient, token: str) -> None:
    answer = await client.post("/auth/refresh", json={"refresh_token": token})

    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")


async def test_a_logout_by_access_token_ends_that_login_here_at_once_and_elsewhere_soon(
    client: httpx.AsyncClient,
    identity: IdentityService,
    make_identity: MakeIdentity,
    account: Account,
    clock: MovableClock,
    events: Events,
) -> None:
    elsewhere = make_identity()
    other = await identity.login(account.email, PASSWORD)
    await elsewhere.authenticate(bearer=account.tokens.access_token)
    answer = await client.post("/auth/logout", headers=account.bearer)

    assert (answer.status_code, answer.content) == (204, b"")
    with pytest.raises(NotAuthenticated):
        await identity.authenticate(bearer=account.tokens.access_token)
    with pytest.raises(NotAuthenticated):
        await identity.refresh(account.tokens.refresh_token)
    await elsewhere.authenticate(bearer=account.tokens.access_token)
    clock.advance(4)
    with pytest.raises(NotAuthenticated):
        await elsewhere.authenticate(bearer=account.tokens.access_token)
    assert (await elsewhere.authenticate(bearer=other.access_token)).id == account.id
    assert events.types == ["user.logged_in", "user.logged_out"]


async def test_a_logout_by_refresh_token_needs_no_access_token_and_may_be_repeated(
    client: httpx.AsyncClient, identity: IdentityService, account: Account, events: Events
) -> None:
    body = {"refresh_token": account.tokens.refresh_token}
    answers = [await client.post("/auth/logout", json=body) for _ in range(2)]
    unknown = await client.post("/auth/logout", json={"refresh_token": "0" * 64})

    assert [answer.status_code for answer in (*answers, unknown)] == [204, 204, 204]
    with pytest.raises(NotAuthenticated):
        await identity.authenticate(bearer=account.tokens.access_token)
    assert events.types == ["user.logged_out"]


async def test_a_logout_without_any_token_is_refused(client: httpx.AsyncClient, identity: IdentityService) -> None:
    empty = await client.post("/auth/logout", json={})
    invented = await client.post("/auth/logout", headers={"Authorization": "Bearer x"})

    assert (empty.status_code, empty.json()["code"]) == (401, "not_authenticated")
    assert (invented.status_code, invented.json()["code"]) == (401, "invalid_token")


async def test_a_disabled_user_is_refused_by_every_credential(
    identity: IdentityService, make_identity: MakeIdentity, account: Account, clock: MovableClock
) -> None:
    elsewhere = make_identity()
    principal = await elsewhere.authenticate(bearer=account.tokens.access_token)
    _, key = await identity.create_api_key(principal, "key")
    by_key = await elsewhere.authenticate(api_key=key)
    await identity.disable_user(account.id)
    clock.advance(4)

    for service in (identity, elsewhere):
        for credential in (account.tokens.access_token, key):
            with pytest.raises(NotAuthenticated):
                await service.authenticate_token(credential)
        assert not await service.is_still_valid(principal)
        assert not await service.is_still_valid(by_key)
    with pytest.raises(NotAuthenticated) as refused:
        await identity.refresh(account.tokens.refresh_token)
    assert refused.value.code == "token_revoked"


async def test_an_access_token_ends_after_fifteen_minutes(
    identity: IdentityService, account: Account, clock: MovableClock
) -> None:
    principal = await identity.authenticate(bearer=account.tokens.access_token)
    clock.advance(898)
    assert await identity.authenticate(bearer=account.tokens.access_token) == principal
    assert await identity.is_still_valid(principal)
    clock.advance(2)

    with pytest.raises(NotAuthenticated) as refused:
        await identity.authenticate(bearer=account.tokens.access_token)
    assert refused.value.code == "token_expired"
    assert not await identity.is_still_valid(principal)


async def test_only_tokens_signed_by_us_for_us_are_believed(
    identity: IdentityService, settings: Settings, account: Account
) -> None:
    key = derive_key(settings.secret_key.get_secret_value(), "access-token")
    claims = jwt.decode(account.tokens.access_token, key, algorithms=["HS256"], audience="payflow-api")
    header, payload, signature = account.tokens.access_token.split(".")
    forged = [
        jwt.encode(claims, b"x" * 32, algorithm="HS256"),
        jwt.encode(claims, key + key, algorithm="HS512"),
        jwt.encode(claims, "", algorithm="none"),
        jwt.encode({**claims, "aud": "other"}, key, algorithm="HS256"),
        jwt.encode({**claims, "iss": "other"}, key, algorithm="HS256"),
        jwt.encode({**claims, "role": "root"}, key, algorithm="HS256"),
        jwt.encode({**claims, "sub": "1"}, key, algorithm="HS256"),
        jwt.encode({**claims, "exp": 10**18}, key, algorithm="HS256"),
        jwt.encode({name: claims[name] for name in claims if name != "sid"}, key, algorithm="HS256"),
        f"{header}.{payload}.",
        f"{header}.{payload}.{signature[::-1]}",
        f"{header}.{payload}",
        "",
        "é\ud800",
        "pf_key_x",
    ]

    for token in forged:
        with pytest.raises(NotAuthenticated):
            await identity.authenticate_token(token)
    assert claims["exp"] - claims["iat"] == 900
    assert set(claims) == {"iss", "aud", "sub", "role", "sid", "iat", "exp", "jti"}
    assert datetime.fromtimestamp(claims["iat"], UTC) <= datetime.now(UTC)


async def test_many_requests_at_once_ask_the_database_once(
    make_identity: MakeIdentity, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = make_identity()
    queries = 0
    load = identity._revocations._load

    async def counted(since: datetime) -> set:
        nonlocal queries
        queries += 1
        return await load(since)

    identity._revocations._load = counted
    await asyncio.gather(*(identity.authenticate(bearer=account.tokens.access_token) for _ in range(100)))

    assert queries == 1


async def test_tokens_outlive_a_short_absence_of_the_database(
    make_identity: MakeIdentity, account: Account, clock: MovableClock
) -> None:
    from payflow.infra.database import DatabaseAway

    identity = make_identity()
    await identity.authenticate(bearer=account.tokens.access_token)

    async def away(since: datetime) -> set:
        raise DatabaseAway("gone")

    identity._revocations._load = away
    clock.advance(30)
    assert (await identity.authenticate(bearer=account.tokens.access_token)).id == account.id
    clock.advance(31)
    with pytest.raises(DatabaseAway):
        await identity.authenticate(bearer=account.tokens.access_token)


async def test_logins_are_limited_by_address(
    identity: IdentityService, limiter: RateLimiter, database: Database
) -> None:
    left = 60 - time.time() % 60
    if left < 3:
        await asyncio.sleep(left + 0.05)
    settings = Settings(_env_file=None, environment="test")  # type: ignore[call-arg]
    limiter.limits = settings
    users = await row_count(database, "users")
    async with client_of(assembled(identity, limiter, settings)) as client:
        bodies = [{"email": new_email(), "password": PASSWORD, "name": "A"} for _ in range(31)]
        answers = [await client.post("/auth/register", json=body) for body in bodies]
        login = await client.post("/auth/login", json={"email": bodies[0]["email"], "password": PASSWORD})
        form = await client.post("/auth/token", data={"username": bodies[0]["email"], "password": PASSWORD})

    assert [answer.status_code for answer in answers] == [201] * 30 + [429]
    assert answers[0].headers["ratelimit-policy"] == '"logins";q=30;w=60'
    assert answers[30].json()["code"] == "rate_limited"
    assert (login.status_code, form.status_code) == (429, 429)
    assert await row_count(database, "users") == users + 30


async def test_logins_stay_limited_in_this_process_when_redis_is_away(
    identity: IdentityService, account: Account
) -> None:
    settings = Settings(_env_file=None, environment="test", logins_per_minute=3)  # type: ignore[call-arg]
    redis = connect_redis("redis://127.0.0.1:1")
    async with client_of(assembled(identity, RateLimiter(redis, settings), settings)) as client:
        body = {"email": account.email, "password": PASSWORD}
        answers = [await client.post("/auth/login", json=body) for _ in range(5)]
    await redis.aclose()

    assert [answer.status_code for answer in answers][:3] == [200, 200, 200]
    assert answers[4].status_code == 429


async def test_the_second_layer_holds_where_the_first_admits_everything(
    identity: IdentityService, limiter: RateLimiter, account: Account
) -> None:
    settings = Settings(_env_file=None, environment="test", logins_per_minute=2)  # type: ignore[call-arg]
    limiter.limits = settings
    app = assembled(identity, limiter, settings)
    limiter.limits = Settings(_env_file=None, environment="test", logins_per_minute=10_000)  # type: ignore[call-arg]
    async with client_of(app) as client:
        body = {"email": account.email, "password": PASSWORD}
        answers = [await client.post("/auth/login", json=body) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert (answers[2].json()["code"], answers[2].headers["retry-after"]) == ("rate_limited", "60")


async def test_a_failing_event_recorder_fails_no_login(make_identity: MakeIdentity, account: Account) -> None:
    async def failing(*_: object) -> None:
        raise RuntimeError

    tokens = await make_identity(record_event=failing).login(account.email, PASSWORD)

    assert tokens.expires_in == 900


async def test_no_secret_reaches_logs_events_or_error_answers(
    client: httpx.AsyncClient, account: Account, events: Events, capfd: pytest.CaptureFixture[str]
) -> None:
    key = (await client.post("/auth/api-keys", json={"name": "k"}, headers=account.bearer)).json()["key"]
    password = "a very secret password"
    refresh = account.tokens.refresh_token
    answers = [
        await client.post("/auth/register", json={"email": account.email, "password": password, "name": "A"}),
        await client.post("/auth/register", json={"email": "x", "password": password, "name": "A"}),
        await client.post("/auth/login", json={"email": account.email, "password": password}),
        await client.post("/auth/login", json={"email": account.email, "password": [password]}),
        await client.post("/auth/login", json={"email": account.email, "password": password, "pin": password}),
        await client.post("/auth/token", data={"username": account.email, "password": password + "\0"}),
        await client.post("/auth/refresh", json={"refresh_token": refresh, "x": refresh}),
        await client.get("/auth/me", headers={"Authorization": f"Basic {key}"}),
        await client.get("/auth/me", headers={"X-API-Key": key + "x"}),
        await client.get(f"/auth/{refresh}?token={key}"),
        await client.delete(f"/auth/api-keys/{key}", headers=account.bearer),
    ]
    written = capfd.readouterr()
    everything = written.out + written.err + repr(events.seen) + "".join(answer.text for answer in answers)

    assert all(answer.status_code >= 400 for answer in answers)
    for secret in (password, refresh, key.removeprefix("pf_key_")[:40], account.tokens.access_token):
        assert secret not in everything
