"""Which provider gets a payment that names none, what is written down of it, and a provider that comes and goes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import httpx
import pytest

from payflow.bootstrap import Services, build_services, discover_providers
from payflow.core.clock import utc_now
from payflow.core.errors import Unavailable
from payflow.core.money import Money
from payflow.gateway.breaker import Admission, Breakers, Phase, ProviderState
from payflow.gateway.contract import CollectOrder, Customer, Verdict
from payflow.gateway.credentials import CredentialSet
from payflow.gateway.http import ProviderHttp
from payflow.gateway.registry import Registry
from payflow.gateway.routing import ProvidersSilent, Route, Routing, country_of
from payflow.main import create_app
from tests.house import API, CHEAP_PASSWORDS, STRIPE, House, Merchant, Urls, eventually, running_house

ROUTED = {**STRIPE, "provider": None}
WELL = ProviderState(20, 20, 2_000, Phase.CLOSED, False, None, None, False)
OPEN = ProviderState(20, 10, 2_000, Phase.OPEN, False, None, None, False)
ILL = ProviderState(20, 15, 2_000, Phase.CLOSED, False, None, None, True)
RESTED = ProviderState(20, 10, 2_000, Phase.HALF_OPEN, False, None, None, False)
PROBED = ProviderState(20, 10, 2_000, Phase.HALF_OPEN, True, None, None, False)


# -- the choice ---------------------------------------------------------------------------------------------------------------


class Told(Breakers):
    """Says what a test says; keeps who was asked for and what was reported."""

    def __init__(self, states: Mapping[str, ProviderState] | None, *, probe: bool = False) -> None:
        self.told, self.probe = states, probe
        self.asked: list[list[str]] = []
        self.recorded: list[tuple[str, bool, str]] = []
        self.released: list[tuple[str, str]] = []

    async def admit(self, names: Any, *, early: bool = True) -> Admission | None:
        self.asked.append(list(names))
        if self.told is None:
            return None
        states = {name: self.told.get(name, WELL) for name in names}
        free = [name for name in names if not states[name].probing and not states[name].ailing]
        closed = [name for name in free if states[name].phase is Phase.CLOSED]
        rested = [name for name in free if early or states[name].phase is not Phase.OPEN]
        chosen = next(iter(closed or rested), None)
        probe = chosen is not None and states[chosen].phase is not Phase.CLOSED
        return Admission(chosen, "token" if probe else "", states)

    def record(self, name: str, *, good: bool, seconds: float, token: str = "") -> None:
        self.recorded.append((name, good, token))

    async def release(self, name: str, token: str) -> None:
        self.released.append((name, token))


class Configured:
    """Credentials for these providers, and nobody is drained."""

    def __init__(self, *names: str) -> None:
        self._names = names

    async def get(self, provider: str) -> CredentialSet | None:
        return CredentialSet(STRIPE) if provider in self._names else None  # type: ignore[arg-type]

    async def names(self) -> frozenset[str]:
        return frozenset()


def routing(
    *configured: str,
    order: tuple[str, ...] = (),
    weights: Mapping[str, int] | None = None,
    draws: tuple[float, ...] = (),
    states: Mapping[str, ProviderState] | None = None,
    away: bool = False,
) -> tuple[Routing, Told]:
    nothing = ProviderHttp(httpx.MockTransport(lambda request: httpx.Response(500)))
    providers = discover_providers(nothing, {}, utc_now, plugins=False)
    given = Configured(*configured)
    registry = Registry(providers, given, given, order)  # type: ignore[arg-type]
    told, numbers = Told(None if away else states or {}), iter(draws)
    return Routing(registry, told, weights or {}, lambda: next(numbers)), told


def order(currency: str = "USD", phone: str | None = None) -> CollectOrder:
    return CollectOrder(
        reference="att01m7yqggjzf6tryzbw846c28h0",
        transaction_id=uuid4(),
        amount=Money(1_990, currency),
        customer=Customer("jenny@example.com", phone, "Jenny Rosen"),
        callback_url="",
        return_url="https://shop.example/return",
    )


def considered(route: Route) -> dict[str, tuple[str, str]]:
    found = {each["provider"]: (each["outcome"], each["why"]) for each in route.explained["considered"]}
    assert len(found) == len(route.explained["considered"])
    return found


USD = ("flutterwave", "paystack", "stripe")


async def test_the_configured_order_decides_and_every_other_has_its_reason() -> None:
    choice, told = routing(*USD, "mpesa", order=("stripe", "paystack"))
    route = await choice.choose(order(), None)
    assert told.asked == [["stripe", "paystack", "flutterwave"]]
    assert route.explained["reason"] == "fits; number 1 in the order"
    assert considered(route) == {
        "stripe": ("chosen", "fits; number 1 in the order"),
        "paystack": ("skipped", "further down the order"),
        "flutterwave": ("skipped", "further down the order"),
    } | {name: why for name, why in considered(route).items() if why[1].endswith("does not take USD.")}
    assert considered(route)["mpesa"][1] == "M-Pesa does not take USD."


async def test_a_named_provider_is_taken_whatever_its_breaker_says() -> None:
    choice, told = routing(*USD, states={"paystack": OPEN})
    route = await choice.choose(order(), "paystack")
    assert (route.candidate.name, told.asked) == ("paystack", [])
    assert route.explained == {
        "reason": "named by the caller",
        "considered": [{"provider": "paystack", "outcome": "chosen", "why": "named by the caller"}],
    }
    assert not await route.advance()


async def test_open_probed_and_ailing_providers_are_passed_over_with_their_reasons() -> None:
    choice, _ = routing(
        *USD, order=("flutterwave", "paystack", "stripe"), states={"flutterwave": OPEN, "paystack": ILL}
    )
    route = await choice.choose(order(), None)
    assert route.candidate.name == "stripe"
    assert considered(route)["flutterwave"] == ("skipped", "breaker open")
    assert considered(route)["paystack"] == ("skipped", "in bad health: 15 of 20 answered, 100 ms on average")
    choice, _ = routing(*USD, states={"flutterwave": PROBED})
    route = await choice.choose(order(), None)
    assert considered(route)["flutterwave"] == ("skipped", "breaker half-open, its probe is out")


async def test_without_redis_the_configured_order_stands() -> None:
    choice, _ = routing(*USD, order=("stripe",), away=True)
    route = await choice.choose(order(), None)
    assert route.candidate.name == "stripe"
    assert route.explained["reason"] == "fits; number 1 in the order; health unknown"
    assert await route.advance()
    assert route.candidate.name == "flutterwave"


async def test_while_the_probes_of_all_are_out_a_payment_is_turned_away_for_a_moment() -> None:
    choice, _ = routing(*USD, states=dict.fromkeys(USD, PROBED))
    with pytest.raises(Unavailable) as refused:
        await choice.choose(order(), None)
    assert (refused.value.code, refused.value.retry_after) == ("provider_unavailable", 5)


async def test_the_customers_country_decides_among_those_the_order_does_not_list() -> None:
    kenyan = order(phone="+254708374149")
    choice, told = routing(*USD)
    route = await choice.choose(kenyan, None)
    assert told.asked == [["flutterwave", "paystack", "stripe"]]
    assert route.explained["reason"] == "fits; number 2 in the order; works in KE"
    french = order(phone="+33612345678")
    route = await choice.choose(french, None)
    assert route.candidate.name == "stripe"
    assert considered(route)["flutterwave"] == ("skipped", "not known in FR")
    choice, told = routing(*USD, order=("paystack",))
    route = await choice.choose(french, None)
    assert told.asked == [["paystack", "stripe", "flutterwave"]]
    assert route.explained["reason"] == "fits; number 1 in the order; not known in FR"
    assert [country_of(phone) for phone in (None, "nonsense", "+1800", "+26650123456")] == [None, None, None, "LS"]


async def test_weights_share_the_payments_among_those_the_order_does_not_list() -> None:
    async def first(draws: tuple[float, ...], weights: Mapping[str, int], listed: tuple[str, ...] = ()) -> list[str]:
        choice, told = routing(*USD, order=listed, weights=weights, draws=draws)
        await choice.choose(order(), None)
        return told.asked[0]

    # The candidates draw in the order of their names; a lot is the number to the power of 1/weight.
    assert await first((0.5, 0.5, 0.5), {"paystack": 3}) == ["paystack", "flutterwave", "stripe"]
    assert await first((0.9, 0.5, 0.95), {"paystack": 3}) == ["stripe", "flutterwave", "paystack"]
    assert await first((0.1, 0.2), {"paystack": 0}) == ["stripe", "flutterwave", "paystack"]
    assert await first((0.1, 0.2, 0.3), {"flutterwave": 9}, ("stripe",)) == ["stripe", "flutterwave", "paystack"]


async def test_what_is_drawn_follows_the_weights() -> None:
    numbers = [(number + 0.5) / 100 for number in range(100)]
    wins = dict.fromkeys(USD, 0)
    for one in numbers[::10]:
        for two in numbers[::10]:
            for three in numbers[::10]:
                choice, _ = routing(*USD, weights={"paystack": 2, "stripe": 1}, draws=(one, two, three))
                wins[(await choice.choose(order(), None)).candidate.name] += 1
    assert 0.4 < wins["paystack"] / sum(wins.values()) < 0.6


async def test_only_silence_counts_against_a_provider() -> None:
    good = {}
    for verdict in Verdict:
        choice, told = routing(*USD)
        route = await choice.choose(order(), None)
        route.report(verdict, 0.1)
        ((_, good[verdict], _),) = told.recorded
    assert {verdict for verdict, is_good in good.items() if not is_good} == {Verdict.UNKNOWN, Verdict.NOT_SENT}


async def test_the_next_ones_turn_tells_what_became_of_the_one_before() -> None:
    choice, told = routing(*USD, order=USD)
    route = await choice.choose(order(), None)
    route.report(Verdict.NOT_SENT, 0.1)
    assert await route.advance()
    assert route.candidate.name == "paystack"
    assert considered(route)["flutterwave"] == ("skipped", "tried: not_sent")
    assert told.asked == [list(USD), ["paystack", "stripe"]]


async def test_a_probe_reports_with_its_token_or_gives_it_back() -> None:
    choice, told = routing("stripe", states={"stripe": OPEN})
    route = await choice.choose(order(), None)
    assert route.explained["reason"].endswith("; probe, since nobody else is left")
    route.report(Verdict.DECLINED, 0.1)
    await route.give_back()
    assert (told.recorded, told.released) == ([("stripe", True, "token")], [])
    route = await choice.choose(order(), None)
    await route.give_back()
    await route.give_back()
    assert told.released == [("stripe", "token")]


# -- money out -----------------------------------------------------------------------------------------------------------------


async def test_a_turn_goes_to_the_first_whose_breaker_lets_it_through_and_says_who_was_passed_over() -> None:
    choice, told = routing(*USD, states={"flutterwave": OPEN, "paystack": PROBED})
    turn = await choice.turn(USD)
    assert (turn.name, told.asked) == ("stripe", [list(USD)])
    assert turn.explained("why") == {
        "reason": "why",
        "considered": [
            {"provider": "flutterwave", "outcome": "skipped", "why": "breaker open"},
            {"provider": "paystack", "outcome": "skipped", "why": "breaker half-open, its probe is out"},
        ],
    }
    turn = await routing(*USD)[0].turn(USD)
    assert (turn.name, turn.explained("why")) == ("flutterwave", {"reason": "why"})


async def test_a_turn_is_refused_while_all_rest_and_no_probe_goes_out_before_its_time() -> None:
    choice, _ = routing(*USD, states={"flutterwave": OPEN, "paystack": PROBED, "stripe": OPEN})
    with pytest.raises(ProvidersSilent) as refused:
        await choice.turn(USD)
    assert (refused.value.code, refused.value.retry_after) == ("provider_unavailable", 5)


async def test_a_turn_that_is_a_probe_reports_with_its_token_or_gives_it_back() -> None:
    choice, told = routing("stripe", states={"stripe": RESTED})
    turn = await choice.turn(["stripe"])
    assert turn.explained("why") == {"reason": "why; probe of its breaker"}
    turn.report(Verdict.NOT_SENT, 0.1)
    await turn.give_back()
    assert (told.recorded, told.released) == ([("stripe", False, "token")], [])
    turn = await choice.turn(["stripe"])
    await turn.give_back()
    await turn.give_back()
    assert told.released == [("stripe", "token")]


async def test_without_redis_the_first_has_its_turn() -> None:
    choice, _ = routing(*USD, away=True)
    assert (await choice.turn(USD)).name == "flutterwave"


# -- in the house -------------------------------------------------------------------------------------------------------------


class Line(httpx.AsyncBaseTransport):
    """The way to the simulator: a provider's line may be cut or held, and each call has its beginning and its end."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.cut: set[str] = set()
        self.held: dict[str, asyncio.Event] = {}
        self.calls: list[tuple[str, str, str]] = []  # (provider, "begins" or "ends", our reference)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        provider = request.url.path.split("/")[1]
        reference = next(iter(_references(request)), "")
        self.calls.append((provider, "begins", reference))
        try:
            if provider in self.held:
                await self.held[provider].wait()
            else:
                await asyncio.sleep(0)
            if provider in self.cut:
                raise httpx.ConnectError("refused")
            return await self.inner.handle_async_request(request)
        finally:
            self.calls.append((provider, "ends", reference))

    def begun(self, provider: str) -> int:
        return sum(call[:2] == (provider, "begins") for call in self.calls)


def _references(request: httpx.Request) -> list[str]:
    body = request.content.decode()
    return [body[place : place + 29] for place in range(len(body)) if body.startswith("att01", place)]


SETTINGS: dict[str, Any] = {
    "transport": Line,
    "provider_order": ("paystack", "stripe"),
    "breaker_failures": 3,
    "breaker_cool_down_seconds": 1_000.0,
    "breaker_max_cool_down_seconds": 1_000.0,
}


def line(house: House) -> Line:
    transport = house.services.http._transport
    assert isinstance(transport, Line)
    return transport


@pytest.fixture
async def shop(urls: Urls) -> AsyncIterator[House]:
    async with running_house(urls, amqp_url="", worker=False, **SETTINGS) as house:
        yield house


async def shown(merchant: Merchant, provider: str) -> dict[str, Any]:
    data = (await merchant.get("/providers")).json()["data"]
    return next(dict(each) for each in data if each["name"] == provider)


async def expire(house: House, provider: str) -> None:
    """As if the cool-down were over."""
    key = f"{house.settings.redis_prefix}{{route}}:{provider}"
    await house.services.redis.hset(key, "until", "1")  # type: ignore[misc]


async def routed(merchant: Merchant) -> dict[str, Any]:
    answer = await merchant.initialize(ROUTED)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_a_silent_provider_is_left_alone_probed_once_and_used_again(shop: House) -> None:
    ada = await shop.merchant()
    assert (await shown(ada, "paystack"))["breaker"] == {"state": "closed", "since": None, "until": None}
    line(shop).cut = {"paystack"}
    for _ in range(3):
        assert (await routed(ada))["provider"] == "stripe"
        await shop.services.breakers.settled()
    assert line(shop).begun("paystack") == 3
    now = await shown(ada, "paystack")
    assert (now["breaker"]["state"], now["breaker"]["until"] > now["breaker"]["since"]) == ("open", True)
    assert now["health"] == {"success_rate": 0.0, "calls": 3, "latency_ms": now["health"]["latency_ms"]}

    payment = await routed(ada)
    (attempt,) = (await ada.payment(payment["id"]))["attempts"]
    assert {"provider": "paystack", "outcome": "skipped", "why": "breaker open"} in attempt["routing"]["considered"]
    assert (attempt["provider"], line(shop).begun("paystack")) == ("stripe", 3)

    line(shop).cut = set()
    await expire(shop, "paystack")
    assert (await shown(ada, "paystack"))["breaker"]["state"] == "half_open"
    payment = await routed(ada)
    (attempt,) = (await ada.payment(payment["id"]))["attempts"]
    assert attempt["routing"]["reason"] == "fits; number 1 in the order; probe of its breaker"
    await shop.services.breakers.settled()
    assert (await shown(ada, "paystack"))["breaker"]["state"] == "closed"
    assert (await routed(ada))["provider"] == "paystack"

    told = await shop.rows("SELECT type, data, actor FROM events WHERE type LIKE 'provider.breaker%' ORDER BY id")
    assert [(row["type"], row["actor"]) for row in told] == [
        ("provider.breaker_opened", "system"),
        ("provider.breaker_closed", "system"),
    ]
    assert told[0]["data"] == {"provider": "paystack", "until": now["breaker"]["until"], "openings": 1}
    metrics = (await shop.client().get("/metrics")).text
    assert 'payflow_provider_breaker_state{provider="paystack"} 0.0' in metrics


async def test_refusals_and_declines_open_nothing(shop: House) -> None:
    ada = await shop.merchant()
    await shop.outcome("paystack", "refuse")
    for _ in range(5):
        assert (await routed(ada))["provider"] == "stripe"
    await shop.services.breakers.settled()
    now = await shown(ada, "paystack")
    assert (now["breaker"]["state"], now["health"]["success_rate"], now["health"]["calls"]) == ("closed", 1.0, 5)


async def test_an_open_breaker_hinders_nobody_who_names_the_provider(shop: House) -> None:
    ada = await shop.merchant()
    line(shop).cut = {"paystack"}
    for _ in range(3):
        await routed(ada)
        await shop.services.breakers.settled()
    line(shop).cut = set()
    assert (await ada.pay("paystack"))["provider"] == "paystack"
    assert (await shown(ada, "paystack"))["breaker"]["state"] == "open"


async def test_with_nobody_else_one_payment_probes_and_the_others_use_up_no_key(urls: Urls) -> None:
    async with running_house(urls, amqp_url="", worker=False, **SETTINGS) as house:
        only = {"stripe": house.settings.provider_credentials["stripe"]}
    async with running_house(urls, amqp_url="", worker=False, **SETTINGS, provider_credentials=only) as house:
        ada = await house.merchant()
        line(house).cut = {"stripe"}
        for _ in range(3):
            assert (await ada.initialize(ROUTED)).status_code == 502
            await house.services.breakers.settled()
        line(house).cut = set()
        line(house).held["stripe"] = asyncio.Event()
        probing = asyncio.create_task(ada.initialize(ROUTED))
        await eventually(lambda: line(house).begun("stripe") == 4)
        refused = await ada.initialize(ROUTED, key="again")
        assert (refused.status_code, refused.json()["code"]) == (503, "provider_unavailable")
        assert refused.headers["retry-after"] == "5"
        assert len(await house.rows("SELECT id FROM transactions")) == 4
        line(house).held["stripe"].set()
        assert (await probing).json()["status"] == "requires_action"
        await house.services.breakers.settled()
        assert (await ada.initialize(ROUTED, key="again")).status_code == 201


async def test_a_repeated_key_takes_no_probe_away(shop: House) -> None:
    ada = await shop.merchant()
    first = await ada.initialize(ROUTED, key="once")
    line(shop).cut = {"paystack"}
    for _ in range(3):
        await routed(ada)
        await shop.services.breakers.settled()
    line(shop).cut = set()
    await expire(shop, "paystack")
    assert (await ada.initialize(ROUTED, key="once")).json()["id"] == first.json()["id"]
    assert (await routed(ada))["provider"] == "paystack"


async def test_redis_gone_is_the_configured_order_and_no_payment_fails_of_it(urls: Urls) -> None:
    nowhere = "redis://127.0.0.1:1/0"
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(running_house(urls, amqp_url="", worker=False, **SETTINGS))
        away = build_services(
            house.settings.model_copy(update={"redis_url": nowhere}),
            transport=line(house),
            password_cost=CHEAP_PASSWORDS,
        )
        merchant = await house.merchant()
        ada = await other_node(stack, away, merchant)
        line(house).cut = {"paystack"}
        for _ in range(5):
            payment = await routed(ada)
            attempts = (await ada.payment(payment["id"]))["attempts"]
            assert [each["provider"] for each in attempts] == ["paystack", "stripe"]
            assert attempts[0]["routing"]["reason"] == "fits; number 1 in the order; health unknown"
        now = await shown(ada, "paystack")
        assert (now["health"], now["breaker"]) == (None, None)


async def other_node(stack: AsyncExitStack, services: Services, merchant: Merchant) -> Merchant:
    """The same merchant at another node of the same house."""
    app = create_app(services)
    await stack.enter_async_context(app.router.lifespan_context(app))
    client = await stack.enter_async_context(
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app, client=("127.0.0.1", 50_001)),
            base_url=API,
            headers={"authorization": merchant.client.headers["authorization"]},
            timeout=30,
        )
    )
    return Merchant(client, merchant.user, merchant.tokens)


async def two_nodes(stack: AsyncExitStack, urls: Urls, **changes: Any) -> tuple[House, Services, list[Merchant]]:
    house = await stack.enter_async_context(running_house(urls, amqp_url="", **{**SETTINGS, **changes}))
    second = build_services(house.settings, transport=line(house), password_cost=CHEAP_PASSWORDS)
    for services in (house.services, second):
        services.breakers._timeout_seconds = 30  # a busy machine is no Redis that is away
    here = await house.merchant()
    return house, second, [here, await other_node(stack, second, here)]


async def test_in_half_open_exactly_one_of_many_at_two_nodes_reaches_the_provider(urls: Urls) -> None:
    async with AsyncExitStack() as stack:
        house, second, merchants = await two_nodes(stack, urls, worker=False)
        wire = line(house)
        wire.cut = {"paystack"}
        await asyncio.gather(*(routed(merchant) for merchant in merchants * 3))
        await house.services.breakers.settled()
        await second.breakers.settled()
        wire.cut = set()
        for round in range(2):
            await expire(house, "paystack")
            before, wire.held["paystack"] = wire.begun("paystack"), asyncio.Event()
            many = [asyncio.create_task(routed(merchant)) for merchant in merchants * 10]
            await eventually(lambda: sum(task.done() for task in many) == 19)  # noqa: B023 - awaited here
            assert wire.begun("paystack") == before + 1
            (probe,) = (task for task in many if not task.done())
            assert {task.result()["provider"] for task in many if task is not probe} == {"stripe"}
            if round == 0:
                await house.outcome("paystack", "server_error", times=1)
            wire.held.pop("paystack").set()
            payment = await probe
            assert (payment["provider"], payment["status"]) == (
                "paystack",
                "processing" if round == 0 else "requires_action",
            )
            await house.services.breakers.settled()
            await second.breakers.settled()
            assert (await shown(merchants[0], "paystack"))["breaker"]["state"] == ("open" if round == 0 else "closed")


async def test_two_nodes_under_load_with_a_provider_that_comes_and_goes(urls: Urls) -> None:
    async with AsyncExitStack() as stack:
        house, second, merchants = await two_nodes(
            stack, urls, breaker_cool_down_seconds=0.1, breaker_max_cool_down_seconds=0.2
        )
        wire, services = line(house), (house.services, second)
        payments: list[dict[str, Any]] = []

        async def burst() -> None:
            payments.extend(await asyncio.gather(*(routed(merchant) for merchant in merchants * 8)))

        async def phase(is_over: Callable[[], Awaitable[bool]]) -> None:
            """Bursts until the breaker has done what this phase of the provider's life leads to."""
            async with asyncio.timeout(40):
                while True:
                    await burst()
                    for each in services:
                        await each.breakers.settled()
                    if await is_over():
                        return

        async def changes() -> list[str]:
            rows = await house.rows("SELECT type FROM events WHERE type LIKE 'provider.breaker%' ORDER BY id")
            return [row["type"].removeprefix("provider.breaker_") for row in rows]

        async def openings() -> int:
            return (await changes()).count("opened")

        async def reopened() -> bool:
            return await openings() >= wanted

        async def closed() -> bool:
            return (await shown(merchants[0], "paystack"))["breaker"]["state"] == "closed"

        for refused in (True, False, True):
            if refused:
                wire.cut = {"paystack"}
            else:
                await house.outcome("paystack", "server_error")
            wanted = await openings() + 3  # once from closed, then by two probes that fail
            await phase(reopened)
            wire.cut = set()
            await house.simulator.delete("/_control/outcomes")
            await phase(closed)
        assert (await changes()).count("closed") == 3

        attempts = await house.rows("SELECT transaction_id, provider, reference, routing, status FROM attempts")
        probes = {row["reference"] for row in attempts if "probe" in row["routing"]["reason"]}
        assert {row["provider"] for row in attempts if row["reference"] in probes} == {"paystack"}
        out: set[str] = set()
        for provider, what, reference in wire.calls:
            if provider == "paystack" and reference in probes:
                (out.add if what == "begins" else out.discard)(reference)
                assert len(out) <= 1
        # Each probe ended in one change of the breaker; the other changes are its openings by the calls of a closed one. In each
        # of the three phases the last may be overtaken: by a call that closed the breaker before its answer was counted.
        told = await changes()
        first_openings = sum(
            now == "opened" and before != "opened" for before, now in zip(["", *told], told, strict=False)
        )
        assert 0 <= len(probes) - (len(told) - first_openings) <= 3
        for row in attempts:
            why = {each["provider"]: each["why"] for each in row["routing"]["considered"]}
            if row["provider"] == "stripe":
                assert why["paystack"] in (
                    "breaker open",
                    "breaker half-open, its probe is out",
                    "tried: not_sent",
                ) or why["paystack"].startswith("in bad health")

        # Nothing lost, nothing twice: what went unanswered is processing, all else is paid, once.
        ada = merchants[0]
        silent = {payment["id"] for payment in payments if payment["status"] == "processing"}
        for payment in payments:
            await house.until(ada, payment["id"], "processing" if payment["id"] in silent else "completed")
        charged = [await house.charges("paystack"), await house.charges("stripe")]
        assert all(row["submissions"] == 1 and row["charges"] <= 1 for each in charged for row in each["charges"])
        assert sum(each["totals"]["charges"] for each in charged) == len(payments) - len(silent)
        for transaction in {row["transaction_id"] for row in attempts}:
            last = [row["status"] for row in attempts if row["transaction_id"] == transaction]
            assert sum(status != "not_sent" for status in last) == 1
