"""The breaker, on real Redis and on the embedded one: whoever asks, from whichever node, it answers as one."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from payflow.gateway.breaker import LEAST_CALLS, Breakers, Change, Phase, ProviderState
from payflow.infra.embedded import EmbeddedServers
from payflow.infra.redis import Redis, connect_redis
from tests.services import delete_keys, unique_prefix


@dataclass
class Rules:
    breaker_failures: int = 3
    breaker_failure_ratio: float = 0.5
    breaker_min_calls: int = 8
    breaker_window_seconds: int = 3_600
    breaker_cool_down_seconds: float = 1_000
    breaker_max_cool_down_seconds: float = 3_000
    provider_timeout_seconds: float = 10


@pytest.fixture(scope="module", params=["real", "embedded"])
async def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    if request.param == "real":
        yield request.getfixturevalue("redis_url")
        return
    pytest.importorskip("fakeredis", reason="the extra payflow[embedded] is not installed")
    async with EmbeddedServers(tmp_path_factory.mktemp("embedded"), postgres=False) as embedded:
        yield embedded.redis_url


class Nodes:
    """Two nodes that share a Redis, and the hand of a test on its clock."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self.redis, self.prefix = redis, prefix
        self.changes: list[tuple[str, bool, int]] = []
        self.one, self.two = self.node(), self.node()

    def node(self) -> Breakers:
        async def changed(change: Change) -> None:
            self.changes.append((change.provider, change.opened, change.trips))

        # A busy machine is no Redis that is away.
        return Breakers(self.redis, Rules(), prefix=self.prefix, changed=changed, timeout_seconds=30)

    async def outcomes(self, name: str, *good: bool, seconds: float = 0.0, token: str = "", node: int = 1) -> None:
        breakers = self.one if node == 1 else self.two
        for each in good:
            breakers.record(name, good=each, seconds=seconds, token=token)
        await breakers.settled()

    async def trip(self, name: str) -> None:
        await self.outcomes(name, False, False, False)
        assert (await self.state(name)).phase is Phase.OPEN

    async def state(self, name: str) -> ProviderState:
        states = await self.two.states([name])
        assert states is not None
        return states[name]

    async def cool_down_is_over(self, name: str) -> None:
        await self.past(name, "until")

    async def past(self, name: str, field: str) -> None:
        """As if that moment had passed a while ago."""
        await self.redis.hset(f"{self.prefix}{{route}}:{name}", field, "1")  # type: ignore[misc]

    async def admitted(self, *names: str) -> tuple[str | None, bool]:
        """Who is asked, and whether it is a probe."""
        admission = await self.one.admit(names)
        assert admission is not None
        return admission.name, admission.token != ""

    async def token(self, *names: str) -> str:
        admission = await self.two.admit(names)
        assert admission is not None
        assert admission.token
        return admission.token


@pytest.fixture
async def nodes(server: str) -> AsyncIterator[Nodes]:
    redis, prefix = connect_redis(server, timeout_seconds=30), unique_prefix("redis") + ":"
    yield Nodes(redis, prefix)
    await redis.aclose()
    await redis.connection_pool.disconnect()
    await delete_keys(server, prefix)


async def test_as_long_as_providers_answer_the_first_is_asked_without_a_probe(nodes: Nodes) -> None:
    await nodes.outcomes("a", False, False, True, False, False, True, True, True)
    assert await nodes.admitted("a", "b") == ("a", False)
    assert nodes.changes == []
    state = await nodes.state("a")
    assert (state.calls, state.answered, state.success_rate, state.phase) == (8, 4, 0.5, Phase.CLOSED)


async def test_silences_in_a_row_open_it_for_every_node(nodes: Nodes) -> None:
    await nodes.outcomes("a", False, False)
    await nodes.outcomes("a", False, node=2)
    state = await nodes.state("a")
    assert (state.phase, state.probing) == (Phase.OPEN, False)
    assert state.since is not None
    assert state.until is not None
    assert 999 < (state.until - state.since).total_seconds() <= 1_000
    assert nodes.changes == [("a", True, 1)]
    assert await nodes.admitted("a", "b") == ("b", False)


async def test_a_share_of_silences_opens_it_too_once_there_were_enough_calls(nodes: Nodes) -> None:
    await nodes.outcomes("a", True, False, True, False, True, False, True)
    assert (await nodes.state("a")).phase is Phase.CLOSED
    await nodes.outcomes("a", False)
    assert (await nodes.state("a")).phase is Phase.OPEN


async def test_of_many_that_come_in_half_open_exactly_one_is_the_probe(nodes: Nodes) -> None:
    await nodes.trip("a")
    await nodes.cool_down_is_over("a")
    assert (await nodes.state("a")).phase is Phase.HALF_OPEN
    admissions = await asyncio.gather(*(each.admit(["a", "b"]) for each in (nodes.one, nodes.two) * 20))
    chosen = [(found.name, bool(found.token)) for found in admissions if found is not None]
    assert sorted(chosen) == [("a", True)] + [("b", False)] * 39
    assert (await nodes.state("a")).probing


async def test_a_probe_that_is_answered_closes_it_and_its_past_is_forgotten(nodes: Nodes) -> None:
    await nodes.trip("a")
    await nodes.cool_down_is_over("a")
    await nodes.outcomes("a", True, token=await nodes.token("a"))
    state = await nodes.state("a")
    assert (state.phase, state.calls, state.answered, state.until) == (Phase.CLOSED, 1, 1, None)
    assert nodes.changes == [("a", True, 1), ("a", False, 0)]
    assert await nodes.admitted("a", "b") == ("a", False)
    await nodes.outcomes("a", False, False)
    assert (await nodes.state("a")).phase is Phase.CLOSED


async def test_a_silent_probe_opens_it_for_twice_as_long_but_no_longer_than_the_longest(nodes: Nodes) -> None:
    await nodes.trip("a")
    rests = []
    for _ in range(3):
        await nodes.cool_down_is_over("a")
        await nodes.outcomes("a", False, token=await nodes.token("a"))
        state = await nodes.state("a")
        assert state.phase is Phase.OPEN
        assert state.since is not None
        assert state.until is not None
        rests.append(round((state.until - state.since).total_seconds()))
    assert rests == [2_000, 3_000, 3_000]
    assert nodes.changes == [("a", True, trips) for trips in (1, 2, 3, 4)]


async def test_a_lost_probe_is_over_when_its_lease_is(nodes: Nodes) -> None:
    await nodes.trip("a")
    await nodes.cool_down_is_over("a")
    lost = await nodes.token("a")
    assert await nodes.admitted("a") == (None, False)
    await nodes.past("a", "lease")
    second = await nodes.token("a")
    assert second != lost
    # The lost one answers late, and silently: it decides nothing any more.
    await nodes.outcomes("a", False, token=lost)
    state = await nodes.state("a")
    assert (state.phase, state.probing) == (Phase.HALF_OPEN, True)


async def test_a_probe_that_is_given_back_is_free_for_the_next_and_only_its_holder_gives_it_back(nodes: Nodes) -> None:
    await nodes.trip("a")
    await nodes.cool_down_is_over("a")
    token = await nodes.token("a")
    await nodes.one.release("a", "another")
    assert await nodes.admitted("a") == (None, False)
    await nodes.one.release("a", token)
    assert await nodes.admitted("a") == ("a", True)


async def test_when_nobody_else_is_left_one_is_probed_before_its_time(nodes: Nodes) -> None:
    await nodes.trip("a")
    await nodes.trip("b")
    assert await nodes.admitted("a", "b") == ("a", True)
    assert await nodes.admitted("a", "b") == ("b", True)
    assert await nodes.admitted("a", "b") == (None, False)


async def test_who_wants_no_early_probe_waits_for_the_end_of_the_rest(nodes: Nodes) -> None:
    await nodes.trip("a")
    await nodes.trip("b")
    resting = await nodes.one.admit(["a", "b"], early=False)
    assert resting is not None
    assert (resting.name, resting.token, resting.states["a"].phase) == (None, "", Phase.OPEN)
    assert not (await nodes.state("a")).probing
    await nodes.cool_down_is_over("b")
    rested = await nodes.one.admit(["a", "b"], early=False)
    assert rested is not None
    assert (rested.name, rested.token != "") == ("b", True)


async def test_calls_that_began_before_the_breaker_changed_say_nothing(nodes: Nodes) -> None:
    await nodes.trip("a")
    await nodes.outcomes("a", True, seconds=5)  # sent before it opened, answered while it cools down
    assert (await nodes.state("a")).phase is Phase.OPEN
    await nodes.cool_down_is_over("a")
    await nodes.outcomes("a", True, token=await nodes.token("a"))
    await nodes.outcomes("a", False, False, False, False, seconds=5)
    state = await nodes.state("a")
    assert (state.phase, state.calls) == (Phase.CLOSED, 1)


async def test_a_call_of_somebody_who_named_the_provider_closes_it_in_half_open(nodes: Nodes) -> None:
    await nodes.trip("a")
    await nodes.cool_down_is_over("a")
    await nodes.outcomes("a", False)
    assert (await nodes.state("a")).phase is Phase.HALF_OPEN
    await nodes.outcomes("a", True)
    assert (await nodes.state("a")).phase is Phase.CLOSED


async def test_those_in_good_health_go_before_the_others(nodes: Nodes) -> None:
    await nodes.outcomes("a", *[True, True, True, False] * 3)
    state = await nodes.state("a")
    assert (state.ailing, state.success_rate, state.phase) == (True, 0.75, Phase.CLOSED)
    await nodes.outcomes("slow", *[True] * LEAST_CALLS, seconds=6)
    state = await nodes.state("slow")
    assert (state.ailing, state.latency_ms, state.success_rate) == (True, 6_000, 1.0)
    assert await nodes.admitted("a", "slow", "c") == ("c", False)
    assert await nodes.admitted("a", "slow") == ("a", False)


async def test_bad_health_keeps_nobody_from_being_probed(nodes: Nodes) -> None:
    await nodes.outcomes("a", *[True, True, False] * 4, False, False)
    state = await nodes.state("a")
    assert (state.ailing, state.phase) == (True, Phase.OPEN)
    await nodes.cool_down_is_over("a")
    assert await nodes.admitted("a", "b") == ("a", True)


async def test_outcomes_that_come_together_travel_together_and_none_is_missing(nodes: Nodes) -> None:
    for number in range(250):
        nodes.one.record(f"p{number % 2}", good=number % 5 != 0, seconds=0.1)
        nodes.two.record(f"p{number % 2}", good=True, seconds=0.1)
    await nodes.one.settled()
    await nodes.two.settled()
    calls = [(await nodes.state(name)).calls for name in ("p0", "p1")]
    assert calls == [250, 250]


async def test_without_redis_nobody_knows_and_nobody_waits_twice() -> None:
    redis = connect_redis("redis://127.0.0.1:1/0")
    breakers = Breakers(redis, Rules())
    assert await breakers.admit(["a"]) is None
    assert await breakers.states(["a"]) is None
    breakers.record("a", good=False, seconds=1)
    await breakers.settled()
    assert await breakers.admit(["a"]) is None
    await breakers.release("a", "token")
    await redis.aclose()
