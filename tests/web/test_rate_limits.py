import asyncio
import time
from types import SimpleNamespace
from typing import Annotated

import fakeredis
import pytest
from fastapi import Depends, FastAPI, Request
from prometheus_client import CollectorRegistry

from payflow.core.errors import Conflict
from payflow.infra.redis import Redis, connect_redis
from payflow.web.rate_limits import (
    Group,
    LimitState,
    RateLimiter,
    _state,
    limited_in_process,
    per_process_limiter,
    rate_limit,
)
from tests.web.conftest import MakeApp, MakeClient

LIMITS = SimpleNamespace(reads_per_minute=3, writes_per_minute=2, logins_per_minute=1)


async def _away_from_the_end_of_a_minute() -> None:
    """Exact counts need one window; it begins with the minute of Redis's clock, which is this machine's."""
    left = 60 - time.time() % 60
    if left < 2:
        await asyncio.sleep(left + 0.05)


@pytest.fixture
async def limiter(redis: Redis, key_prefix: str) -> RateLimiter:
    await _away_from_the_end_of_a_minute()
    return RateLimiter(redis, LIMITS, prefix=key_prefix)


def limited(limiter: RateLimiter, group: Group = "read"):
    def routes(app: FastAPI) -> None:
        async def principal(request: Request) -> None:
            name = request.headers.get("x-user")
            if name:
                request.state.principal = SimpleNamespace(key=lambda: name)

        guards = [Depends(principal), Depends(rate_limit(limiter, group))]

        @app.get("/thing", dependencies=guards)
        async def thing(fail: bool = False) -> str:
            if fail:
                raise Conflict
            return "done"

    return routes


async def test_the_headers_count_down_and_a_refusal_says_when_to_come_back(
    limiter: RateLimiter, make_app: MakeApp, client_of: MakeClient
) -> None:
    client = client_of(make_app(limited(limiter)))
    answers = [await client.get("/thing", headers={"x-user": "ada"}) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["ratelimit-policy"] for answer in answers] == ['"reads";q=3;w=60'] * 4
    assert [answer.headers["ratelimit"].split(";t=")[0] for answer in answers] == [
        '"reads";r=2',
        '"reads";r=1',
        '"reads";r=0',
        '"reads";r=0',
    ]
    assert all(1 <= int(answer.headers["ratelimit"].split(";t=")[1]) <= 120 for answer in answers)
    refused = answers[3]
    assert refused.json()["code"] == "rate_limited"
    assert refused.headers["retry-after"] == refused.headers["ratelimit"].split(";t=")[1]
    assert "retry-after" not in answers[2].headers


async def test_the_headers_are_on_error_answers_too(
    limiter: RateLimiter, make_app: MakeApp, client_of: MakeClient
) -> None:
    answer = await client_of(make_app(limited(limiter))).get("/thing?fail=true")

    assert answer.status_code == 409
    assert answer.headers["ratelimit"].startswith('"reads";r=2;')


async def test_principals_addresses_and_groups_are_counted_apart(
    limiter: RateLimiter, make_app: MakeApp, client_of: MakeClient
) -> None:
    app = make_app(limited(limiter, "login"))

    async def status(peer: str, user: str | None = None) -> int:
        headers = {"x-user": user} if user else {}
        return (await client_of(app, peer).get("/thing", headers=headers)).status_code

    assert [await status("192.0.2.1", "ada"), await status("192.0.2.2", "ada")] == [200, 429]
    assert await status("192.0.2.1", "ben") == 200
    assert [await status("192.0.2.1"), await status("192.0.2.1"), await status("192.0.2.2")] == [200, 429, 200]
    assert (await limiter.hit("write", "ada", 1)).allowed


async def test_an_ipv6_network_counts_as_one_address(
    limiter: RateLimiter, make_app: MakeApp, client_of: MakeClient
) -> None:
    app = make_app(limited(limiter, "login"))

    statuses = [
        (await client_of(app, peer).get("/thing")).status_code
        for peer in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1")
    ]
    assert statuses == [200, 429, 200]


async def test_of_simultaneous_hits_exactly_the_limit_is_admitted(limiter: RateLimiter) -> None:
    states = await asyncio.gather(*(limiter.hit("read", "many", 5) for _ in range(50)))

    assert sum(state.allowed for state in states) == 5
    assert sorted(state.remaining for state in states if state.allowed) == [0, 1, 2, 3, 4]


async def test_hits_at_once_share_a_call_and_keep_their_own_counters(
    redis: Redis, limiter: RateLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    run = limiter._run_script

    async def counted(hits: list) -> list[int]:
        nonlocal calls
        calls += 1
        return await run(hits)

    monkeypatch.setattr(limiter, "_run_script", counted)
    hits = [limiter.hit("read", f"key {number % 10}", 100 + number % 10) for number in range(450)]
    states = await asyncio.gather(*hits)

    assert calls == 3
    assert [states[number].remaining for number in range(10)] == [99 + number for number in range(10)]
    assert [states[number].remaining for number in range(440, 450)] == [55 + number for number in range(10)]


async def test_a_request_that_goes_away_takes_no_other_hit_along(limiter: RateLimiter) -> None:
    leaving = asyncio.create_task(limiter.hit("read", "leaving", 10))
    staying = asyncio.create_task(limiter.hit("read", "staying", 10))
    await asyncio.sleep(0)
    leaving.cancel()

    assert (await staying).remaining == 9
    assert leaving.cancelled()
    assert (await limiter.hit("read", "staying", 10)).remaining == 8


async def test_a_hit_may_cost_more_than_one(limiter: RateLimiter) -> None:
    assert (await limiter.hit("read", "dear", 10, cost=8)).remaining == 2
    assert not (await limiter.hit("read", "dear", 10, cost=3)).allowed
    assert (await limiter.hit("read", "dear", 10, cost=2)).remaining == 0


async def test_the_window_before_weighs_by_what_is_left_of_it(
    redis: Redis, limiter: RateLimiter, key_prefix: str
) -> None:
    seconds, microseconds = await redis.time()
    window, elapsed = divmod(seconds + microseconds / 1e6, 60)
    await redis.hset(f"{key_prefix}{{limit}}:read:before", mapping={"n": int(window) - 1, "c": 1000, "p": 9999})

    state = await limiter.hit("read", "before", 2000)

    weight = 1000 * (60 - elapsed) / 60
    assert abs(state.remaining - (2000 - weight - 1)) <= 20


def test_a_refusal_waits_until_the_window_before_has_faded_enough() -> None:
    # 60 before and 50 now, a minute's 100: at second 6, 54 + 50 are too many; at second 11, 49 + 50 + 1 are not.
    assert _state(False, 100, 1, 50, 60, 6.0) == LimitState(False, 100, 0, 5)


def test_a_refusal_waits_into_the_next_window_when_this_one_is_full() -> None:
    # All 100 in this window: the next one starts in 54 s, and one in a hundred has faded 0.6 s later.
    assert _state(False, 100, 1, 100, 0, 6.0) == LimitState(False, 100, 0, 55)


async def test_counters_expire(redis: Redis, limiter: RateLimiter, key_prefix: str) -> None:
    await limiter.hit("read", "short-lived", 5)

    assert 60_000 < await redis.pttl(f"{key_prefix}{{limit}}:read:short-lived") <= 120_000


async def test_the_script_runs_on_the_redis_of_embedded_mode() -> None:
    await _away_from_the_end_of_a_minute()
    redis = fakeredis.FakeAsyncRedis()
    limiter = RateLimiter(redis, LIMITS)
    states = [await limiter.hit("read", "x", 2) for _ in range(3)]
    await redis.aclose()

    assert [(state.allowed, state.remaining) for state in states] == [(True, 1), (True, 0), (False, 0)]


async def test_without_redis_this_process_counts_and_a_metric_says_so(make_app: MakeApp, client_of: MakeClient) -> None:
    await _away_from_the_end_of_a_minute()
    registry = CollectorRegistry()
    redis = connect_redis("redis://127.0.0.1:1")
    client = client_of(make_app(limited(RateLimiter(redis, LIMITS, registry=registry)), registry=registry))
    answers = [await client.get("/thing") for _ in range(4)]
    await redis.aclose()

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[2].headers["ratelimit"].startswith('"reads";r=0;t=')
    assert registry.get_sample_value("payflow_rate_limiter_fallback_total") == 4.0
    assert "payflow_rate_limiter_fallback_total 4.0" in (await client.get("/metrics")).text


async def test_a_redis_that_hangs_is_asked_by_one_hit_at_a_time(redis: Redis, key_prefix: str) -> None:
    asked = 0

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    hanging = connect_redis(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    limiter = RateLimiter(hanging, LIMITS, prefix=key_prefix, timeout_seconds=0.2, back_off_seconds=600)

    await asyncio.gather(*(limiter.hit("read", "x", 100) for _ in range(5)))
    assert asked == 1  # for the five together
    for _ in range(50):
        await limiter.hit("read", "x", 100)
    assert asked == 1
    limiter._away_until = 0.0
    await asyncio.gather(*(limiter.hit("read", "x", 100) for _ in range(20)))
    assert asked == 2  # one of the twenty looked again
    limiter._redis, limiter._away_until = redis, 0.0
    assert (await limiter.hit("read", "x", 100)).remaining == 99
    await hanging.aclose()
    await hanging.connection_pool.disconnect()
    server.close()
    await server.wait_closed()


async def test_the_second_layer_limits_by_address_in_this_process(make_app: MakeApp, client_of: MakeClient) -> None:
    def routes(app: FastAPI) -> None:
        in_process = per_process_limiter()

        @app.post("/login")
        @limited_in_process(in_process, 2)
        async def login(request: Request, name: Annotated[str, Depends(lambda: "x")]) -> str:
            return name

    app = make_app(routes)
    client = client_of(app)
    statuses = [(await client.post("/login")).status_code for _ in range(3)]
    refused = await client.post("/login")

    assert statuses == [200, 200, 429]
    assert (refused.json()["code"], refused.headers["retry-after"]) == ("rate_limited", "60")
    assert refused.headers["content-type"] == "application/problem+json"
    assert (await client_of(app, "192.0.2.9").post("/login")).status_code == 200
    assert (await client_of(make_app(routes)).post("/login")).status_code == 200
