"""The adapters over real HTTP against the simulator, which has its own words and its own signing: order, webhook, query."""

import asyncio
import contextlib
import dataclasses
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from payflow.core.money import Money
from payflow.gateway.contract import (
    ActionType,
    AirtimeVariation,
    Customer,
    Destination,
    DestinationType,
    LookupFailed,
    Operation,
    PayoutOrder,
    ProviderEvent,
    PurchaseOrder,
    Query,
    RefundOrder,
    RefundQuery,
    Result,
    ServiceCategory,
    Submission,
    Trust,
    Verdict,
    WebhookRefused,
    WebhookRequest,
)
from payflow.gateway.http import ProviderHttp, build_http
from payflow.providers.cpay import Cpay, CpayCredentials
from payflow.providers.flutterwave import Flutterwave, FlutterwaveCredentials
from payflow.providers.moniepoint import Moniepoint, MoniepointCredentials
from payflow.providers.mpesa import Mpesa, MpesaCredentials
from payflow.providers.paystack import Paystack, PaystackCredentials
from payflow.providers.standardbank_pay import StandardBankPay, StandardBankPayCredentials
from payflow.providers.stripe import Stripe, StripeCredentials
from payflow.providers.vtpass import Vtpass, VtpassCredentials
from payflow.simulator import SimulatorSettings, create_simulator
from tests.providers.contract_suite import TRANSACTION_ID, a_query, an_order

ADAPTERS: dict[str, Any] = {
    "paystack": Paystack,
    "mpesa": Mpesa,
    "stripe": Stripe,
    "standardbank_pay": StandardBankPay,
    "moniepoint": Moniepoint,
    "cpay": Cpay,
    "flutterwave": Flutterwave,
}
SELLERS: dict[str, Any] = {"vtpass": Vtpass}  # of airtime; they collect nothing
BY_PATH = {adapter.declaration.path_name: name for name, adapter in (ADAPTERS | SELLERS).items()}
CURRENCIES = dict.fromkeys(ADAPTERS, "USD") | {
    "mpesa": "KES",
    "standardbank_pay": "ZAR",
    "moniepoint": "NGN",
    "cpay": "LSL",
}
BOUND = {"mpesa", "cpay"}  # their queries tell no amount
PAYERS = {"cpay": {"customer": Customer(phone="+26657012345")}}
WAITING = {Verdict.REQUIRES_ACTION, Verdict.PROCESSING}
# Flutterwave knows no transaction before the customer has tried.
UNTRIED = {"flutterwave": {Verdict.NOT_FOUND}}
numbers = itertools.count(1)


async def until(ask: Callable[[], Awaitable[Any]], fits: Callable[[Any], bool]) -> Any:
    """What `ask` gives once it fits; nobody tells us when the customer has acted."""
    async with asyncio.timeout(30):
        while not fits(found := await ask()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return found


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Bench:
    """One simulator, an adapter of each provider, and every webhook that was sent."""

    def __init__(self, url: str, client: httpx.AsyncClient, http: ProviderHttp, settings: SimulatorSettings) -> None:
        self.url = url
        self.client = client
        self.webhooks: list[tuple[str, WebhookRequest]] = []
        self.adapters = {
            name: adapter(http, f"{url}/{name}", lambda: datetime.now(UTC))
            for name, adapter in (ADAPTERS | SELLERS).items()
        }
        self.credentials: dict[str, Any] = {
            "paystack": PaystackCredentials(secret_key=SecretStr(settings.paystack_secret_key)),
            "stripe": StripeCredentials(
                secret_key=SecretStr(settings.stripe_secret_key),
                webhook_secret=SecretStr(settings.stripe_webhook_secret),
            ),
            "flutterwave": FlutterwaveCredentials(
                secret_key=SecretStr(settings.flutterwave_secret_key),
                secret_hash=SecretStr(settings.flutterwave_secret_hash),
            ),
            "mpesa": MpesaCredentials(
                consumer_key=SecretStr(settings.mpesa_consumer_key),
                consumer_secret=SecretStr(settings.mpesa_consumer_secret),
                passkey=SecretStr(settings.mpesa_passkey),
                shortcode=settings.mpesa_shortcode,
            ),
            "standardbank_pay": StandardBankPayCredentials(
                api_key=SecretStr(settings.standardbank_pay_api_key),
                client_id=settings.standardbank_pay_client_id,
                signing_secret=SecretStr(settings.standardbank_pay_signing_secret),
            ),
            "moniepoint": MoniepointCredentials(
                api_key=SecretStr(settings.moniepoint_api_key),
                secret_key=SecretStr(settings.moniepoint_secret_key),
                contract_code=settings.moniepoint_contract_code,
                source_account_number=settings.moniepoint_source_account_number,
            ),
            "cpay": CpayCredentials(
                api_key=SecretStr(settings.cpay_api_key),
                client_code=settings.cpay_client_code,
                secret=SecretStr(settings.cpay_secret),
            ),
            "vtpass": VtpassCredentials(
                api_key=SecretStr(settings.vtpass_api_key),
                public_key=SecretStr(settings.vtpass_public_key),
                secret_key=SecretStr(settings.vtpass_secret_key),
            ),
        }

    async def control(self, method: str, path: str, **body: Any) -> Any:
        response = await self.client.request(method, f"{self.url}/_control{path}", json=body or None)
        assert response.is_success, response.text
        return response.json()

    async def collect(self, provider: str, outcome: str, **changes: Any) -> "Attempt":
        await self.control("POST", "/outcomes", provider=provider, outcome=outcome, times=1)
        order = an_order(
            Money(50_000, CURRENCIES[provider]),
            reference=f"suite{next(numbers):021d}",
            callback_url=f"http://merchant.test/api/v1/webhooks/{ADAPTERS[provider].declaration.path_name}/abc",
        )
        order = dataclasses.replace(order, **{**PAYERS.get(provider, {}), **changes})
        adapter = self.adapters[provider]
        adapter.check(order)
        result = await adapter.collect(order, self.credentials[provider])
        query = dataclasses.replace(a_query(order.amount, *result.provider_references), reference=order.reference)
        return Attempt(self, provider, query, result)


@dataclasses.dataclass
class Attempt:
    bench: Bench
    provider: str
    query: Query
    collected: Result

    async def fetch(self) -> Result:
        result: Result = await self.bench.adapters[self.provider].fetch(
            self.query, self.bench.credentials[self.provider]
        )
        return result

    async def ended(self) -> Result:
        waiting = WAITING | UNTRIED.get(self.provider, set())
        result: Result = await until(self.fetch, lambda result: result.verdict not in waiting)
        return result

    async def charges(self) -> Any:
        reference = self.query.reference[-12:] if self.provider == "mpesa" else self.query.reference
        listed = await self.bench.control("GET", f"/charges?provider={self.provider}&reference={reference}")
        return listed["charges"][0]

    async def events(self, count: int = 1) -> list[ProviderEvent]:
        """The next events about this attempt, each proven and translated by the adapter."""
        found: list[ProviderEvent] = await until(self.translated, lambda found: len(found) >= count)
        return found

    async def results(self) -> list[Result]:
        def told(events: list[ProviderEvent]) -> list[Result]:
            return [event.result for event in events if event.result]

        return told(await until(self.translated, lambda events: bool(told(events))))

    async def translated(self) -> list[ProviderEvent]:
        adapter, credentials = self.bench.adapters[self.provider], self.bench.credentials[self.provider]
        found = []
        for provider, webhook in self.bench.webhooks:
            if provider == self.provider:
                adapter.verify_webhook(webhook, [credentials])
                found += adapter.translate(webhook)
        known = {self.query.reference, *self.query.provider_references}
        return [event for event in found if known & {*event.references, *event.provider_references}]


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Bench]:
    # With its protocol named, else asyncio leaves Nagle's algorithm on and every answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    bench: Bench

    async def receive(request: httpx.Request) -> httpx.Response:
        name = BY_PATH[request.url.path.split("/webhooks/")[1].partition("/")[0]]
        headers = {key.lower(): value for key, value in request.headers.items()}
        bench.webhooks.append((name, WebhookRequest(headers, await request.aread(), datetime.now(UTC))))
        return httpx.Response(200, content=(ADAPTERS | SELLERS)[name].declaration.webhook_answer)

    settings = SimulatorSettings(port=listener.getsockname()[1], customer_delay_seconds=0.02, slow_seconds=0.1)
    app = create_simulator(settings, transport=httpx.MockTransport(receive))
    server = Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="on"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    async with (
        build_http(timeout_seconds=0.5, connect_timeout_seconds=1, connections=20) as http,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        bench = Bench(settings.base_url, client, http, settings)
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        yield bench
    server.should_exit = True
    await task
    listener.close()


@pytest.fixture
async def bench(running: Bench) -> Bench:
    await running.control("POST", "/reset")
    running.webhooks.clear()
    return running


def money(attempt: Attempt) -> Money:
    return attempt.query.amount


@pytest.mark.parametrize("provider", ADAPTERS)
async def test_a_customer_who_pays_completes_by_webhook_and_by_query(bench: Bench, provider: str) -> None:
    attempt = await bench.collect(provider, "success")
    assert attempt.collected.verdict is Verdict.REQUIRES_ACTION
    assert attempt.collected.next_action is not None
    told = await attempt.results()
    assert {result.verdict for result in told} == {Verdict.COMPLETED}
    assert (told[0].requested or told[0].paid) == (None if provider == "cpay" else money(attempt))
    asked = await attempt.ended()
    assert asked.verdict is Verdict.COMPLETED
    if provider in BOUND:
        assert asked.amount_bound
    elif provider == "moniepoint":
        assert (asked.requested, asked.paid, asked.fee) == (None, money(attempt), Money(1_000, "NGN"))
    else:
        assert asked.requested == asked.paid == money(attempt)
    assert (await attempt.charges())["charges"] == 1


ENDS = [
    ("paystack", "decline", Verdict.DECLINED, "declined"),
    ("paystack", "insufficient_funds", Verdict.DECLINED, "insufficient_funds"),
    ("mpesa", "decline", Verdict.DECLINED, "wrong_pin"),
    ("mpesa", "insufficient_funds", Verdict.DECLINED, "insufficient_funds"),
    ("mpesa", "cancelled", Verdict.CANCELLED, "customer_cancelled"),
    ("mpesa", "expired", Verdict.EXPIRED, "expired"),
    ("stripe", "expired", Verdict.EXPIRED, "expired"),
    ("standardbank_pay", "decline", Verdict.DECLINED, "declined"),
    ("standardbank_pay", "cancelled", Verdict.CANCELLED, "customer_cancelled"),
    ("standardbank_pay", "expired", Verdict.EXPIRED, "expired"),
    ("moniepoint", "decline", Verdict.DECLINED, "declined"),
    ("moniepoint", "insufficient_funds", Verdict.DECLINED, "declined"),
    ("moniepoint", "cancelled", Verdict.CANCELLED, "customer_cancelled"),
    ("moniepoint", "expired", Verdict.EXPIRED, "expired"),
    ("cpay", "decline", Verdict.DECLINED, "declined"),
    ("cpay", "insufficient_funds", Verdict.DECLINED, "declined"),
    ("cpay", "cancelled", Verdict.CANCELLED, "customer_cancelled"),
    ("cpay", "expired", Verdict.EXPIRED, "expired"),
    ("flutterwave", "decline", Verdict.DECLINED, "declined"),
    ("flutterwave", "insufficient_funds", Verdict.DECLINED, "insufficient_funds"),
]


@pytest.mark.parametrize(("provider", "outcome", "verdict", "failure"), ENDS)
async def test_a_payment_that_ends_without_money_says_why(
    bench: Bench, provider: str, outcome: str, verdict: Verdict, failure: str
) -> None:
    result = await (await bench.collect(provider, outcome)).ended()
    assert (result.verdict, result.failure and result.failure.code) == (verdict, failure)
    assert (result.expirable, result.paid) == (True, None)


@pytest.mark.parametrize(
    ("outcome", "code"), [("decline", "card_declined"), ("insufficient_funds", "insufficient_funds")]
)
async def test_a_decline_at_stripe_is_told_while_its_page_stays_open(bench: Bench, outcome: str, code: str) -> None:
    attempt = await bench.collect("stripe", outcome)
    (decline,) = await attempt.results()
    assert (decline.verdict, decline.failure and decline.failure.code) == (Verdict.DECLINED, code)
    assert (decline.session_open, decline.reference) == (True, attempt.query.reference)
    assert (await attempt.fetch()).verdict is Verdict.REQUIRES_ACTION


async def test_a_customer_who_leaves_stripes_page_may_come_back(bench: Bench) -> None:
    attempt = await bench.collect("stripe", "cancelled")
    await asyncio.sleep(0.05)
    result = await attempt.fetch()
    assert (result.verdict, result.expirable) == (Verdict.REQUIRES_ACTION, False)


@pytest.mark.parametrize("outcome", ["cancelled", "expired", "silent"])
async def test_a_checkout_at_paystack_that_nobody_pays_is_abandoned(bench: Bench, outcome: str) -> None:
    attempt = await bench.collect("paystack", outcome)
    await asyncio.sleep(0.05)
    result = await attempt.fetch()
    assert (result.verdict, result.raw_status, result.expirable) == (Verdict.REQUIRES_ACTION, "abandoned", True)


@pytest.mark.parametrize("provider", ADAPTERS)
async def test_a_late_success_replaces_a_failure(bench: Bench, provider: str) -> None:
    attempt = await bench.collect(provider, "late_success_after_failure")
    result = await until(attempt.fetch, lambda result: result.verdict is Verdict.COMPLETED)
    assert result.failure is None


@pytest.mark.parametrize("outcome", ["refuse", "rate_limited"])
@pytest.mark.parametrize("provider", ADAPTERS)
async def test_a_refusal_is_known_as_such_and_nothing_was_charged(bench: Bench, provider: str, outcome: str) -> None:
    attempt = await bench.collect(provider, outcome)
    assert attempt.collected.verdict is Verdict.REFUSED
    assert attempt.collected.failure is not None
    assert (await attempt.charges())["charges"] == 0


UNSURE = [
    "timeout_after_charging",
    "server_error_after_charging",
    "dropped_after_charging",
    "server_error",
    "html_error",
]


@pytest.mark.parametrize("outcome", UNSURE)
@pytest.mark.parametrize("provider", ADAPTERS)
async def test_an_order_without_a_readable_answer_is_unknown_and_never_sent_again(
    bench: Bench, provider: str, outcome: str
) -> None:
    attempt = await bench.collect(provider, outcome)
    assert (attempt.collected.verdict, attempt.collected.failure) == (Verdict.UNKNOWN, None)
    charges = await attempt.charges()
    assert (charges["submissions"], charges["charges"]) == (1, int("after_charging" in outcome))


@pytest.mark.parametrize("provider", ["paystack", "moniepoint"])
@pytest.mark.parametrize(
    ("outcome", "verdict"), [("server_error_after_charging", Verdict.COMPLETED), ("server_error", Verdict.NOT_FOUND)]
)
async def test_what_became_of_an_unknown_order_is_told_by_our_reference(
    bench: Bench, provider: str, outcome: str, verdict: Verdict
) -> None:
    assert (await (await bench.collect(provider, outcome)).ended()).verdict is verdict


@pytest.mark.parametrize(
    ("provider", "raw_status"),
    [("paystack", "400 duplicate_reference"), ("moniepoint", "422 99 Duplicate payment reference")],
)
async def test_a_reference_used_twice_is_unknown_and_then_asked(bench: Bench, provider: str, raw_status: str) -> None:
    first = await bench.collect(provider, "success")
    second = await bench.collect(provider, "success", reference=first.query.reference)
    assert (second.collected.verdict, second.collected.raw_status) == (Verdict.UNKNOWN, raw_status)
    assert (await second.ended()).verdict is Verdict.COMPLETED
    assert (await second.charges())["charges"] == 1


@pytest.mark.parametrize("provider", ["stripe", "standardbank_pay"])
async def test_an_unknown_order_without_an_id_is_resolved_by_its_webhook(bench: Bench, provider: str) -> None:
    attempt = await bench.collect(provider, "server_error_after_charging")
    assert (await attempt.fetch()).verdict is Verdict.UNKNOWN
    told = await attempt.results()
    assert {(result.verdict, result.reference) for result in told} == {(Verdict.COMPLETED, attempt.query.reference)}


@pytest.mark.parametrize("provider", ["paystack", "stripe", "standardbank_pay", "flutterwave"])
async def test_another_amount_or_currency_is_told_as_it_is(bench: Bench, provider: str) -> None:
    other_amount = await (await bench.collect(provider, "wrong_amount")).ended()
    assert other_amount.verdict is Verdict.COMPLETED
    assert Money(25_000, CURRENCIES[provider]) in (other_amount.requested, other_amount.paid)
    other_currency = await (await bench.collect(provider, "wrong_currency")).ended()
    assert other_currency.verdict is Verdict.COMPLETED
    assert CURRENCIES[provider] not in {
        found.currency for found in (other_currency.requested, other_currency.paid) if found
    }


async def test_a_part_of_the_money_and_another_currency_at_moniepoint_are_told_as_paid(bench: Bench) -> None:
    part = await (await bench.collect("moniepoint", "wrong_amount")).ended()
    assert (part.verdict, part.raw_status, part.fee) == (Verdict.COMPLETED, "PARTIALLY_PAID", None)
    assert part.paid == Money(25_000, "NGN")
    other = await (await bench.collect("moniepoint", "wrong_currency")).ended()
    assert (other.verdict, other.paid) == (Verdict.COMPLETED, Money(50_000, "USD"))


async def test_a_transfer_that_moniepoint_sends_back_leaves_the_account_open(bench: Bench) -> None:
    attempt = await bench.collect("moniepoint", "silent", method="bank_transfer")
    action = attempt.collected.next_action
    assert action is not None
    assert (action.type, action.fields["amount"]) == (ActionType.TRANSFER, "500.00")
    await bench.control("POST", f"/charges/moniepoint/{attempt.query.reference}/reject")
    (rejected,) = await attempt.results()
    assert (rejected.verdict, rejected.failure and rejected.failure.code) == (Verdict.DECLINED, "wrong_amount")
    assert rejected.session_open
    assert (await attempt.fetch()).verdict is Verdict.REQUIRES_ACTION
    await bench.control("POST", f"/charges/moniepoint/{attempt.query.reference}/overpay")
    result = await attempt.ended()
    assert (result.raw_status, result.paid) == ("OVERPAID", Money(55_000, "NGN"))


async def test_another_amount_at_mpesa_is_in_the_callback_only(bench: Bench) -> None:
    attempt = await bench.collect("mpesa", "wrong_amount")
    (event,) = await attempt.events()
    assert event.result is not None
    assert (event.trust, event.result.paid) == (Trust.CONFIRM, Money(25_000, "KES"))
    assert len(event.result.receipt or "") == 10


@pytest.mark.parametrize("provider", ["paystack", "flutterwave"])
async def test_a_fee_on_top_is_told_beside_what_was_asked(bench: Bench, provider: str) -> None:
    result = await (await bench.collect(provider, "fee_on_top")).ended()
    assert (result.verdict, result.requested) == (Verdict.COMPLETED, Money(50_000, "USD"))
    assert result.paid is not None
    assert result.fee is not None
    assert result.paid.minor == 50_000 + result.fee.minor


@pytest.mark.parametrize("provider", ["paystack", "stripe", "standardbank_pay", "moniepoint", "flutterwave"])
async def test_a_webhook_signed_with_another_key_is_refused(bench: Bench, provider: str) -> None:
    attempt = await bench.collect(provider, "bad_signature")
    with pytest.raises(WebhookRefused, match="signature_mismatch"):
        await attempt.events()


@pytest.mark.parametrize("provider", ADAPTERS)
async def test_a_query_that_fails_says_nothing(bench: Bench, provider: str) -> None:
    attempt = await bench.collect(provider, "no_answer")
    assert attempt.collected.verdict is Verdict.REQUIRES_ACTION
    result = await attempt.fetch()
    assert (result.verdict, result.expirable) == (Verdict.UNKNOWN, False)


async def test_wrong_keys_are_refused_by_each_provider(bench: Bench) -> None:
    bench.credentials = {
        "paystack": PaystackCredentials(secret_key=SecretStr("sk_test_another")),
        "stripe": StripeCredentials(secret_key=SecretStr("sk_test_another"), webhook_secret=SecretStr("whsec_another")),
        "flutterwave": FlutterwaveCredentials(
            secret_key=SecretStr("FLWSECK_TEST-another-X"), secret_hash=SecretStr("another")
        ),
        "mpesa": bench.credentials["mpesa"].model_copy(update={"consumer_secret": SecretStr("another")}),
        "standardbank_pay": bench.credentials["standardbank_pay"].model_copy(
            update={"api_key": SecretStr("sbp_test_another")}
        ),
        "moniepoint": bench.credentials["moniepoint"].model_copy(update={"secret_key": SecretStr("another")}),
        "cpay": bench.credentials["cpay"].model_copy(update={"api_key": SecretStr("another")}),
    } | {"kept": bench.credentials}
    try:
        for provider in ADAPTERS:
            await bench.control("POST", "/outcomes", provider=provider, outcome="success", times=1)
            order = an_order(Money(50_000, CURRENCIES[provider]), **PAYERS.get(provider, {}))
            result = await bench.adapters[provider].collect(order, bench.credentials[provider])
            assert (result.verdict, result.failure.code) == (Verdict.REFUSED, "authentication_failed")
    finally:
        bench.credentials = bench.credentials["kept"]


async def test_a_wrong_passkey_is_refused_by_its_message(bench: Bench) -> None:
    wrong = bench.credentials["mpesa"].model_copy(update={"passkey": SecretStr("another")})
    result = await bench.adapters["mpesa"].collect(
        an_order(Money(50_000, "KES"), callback_url="http://merchant.test/lipa/abc"), wrong
    )
    assert (result.verdict, result.failure.code) == (Verdict.REFUSED, "authentication_failed")


@pytest.mark.parametrize("answer", ["4999", "500.001.1001"])
async def test_a_prompt_that_is_still_open_is_processing(bench: Bench, answer: str) -> None:
    await bench.control("POST", "/settings", mpesa_in_flight_answer=answer, mpesa_expires_in_as_text=answer == "4999")
    result = await (await bench.collect("mpesa", "silent")).fetch()
    assert (result.verdict, result.expirable) == (Verdict.PROCESSING, False)


async def test_a_second_prompt_on_one_phone_is_refused(bench: Bench) -> None:
    await bench.control("POST", "/settings", mpesa_lock_subscriber=True)
    await bench.collect("mpesa", "silent")
    second = await bench.collect("mpesa", "success")
    assert (second.collected.verdict, second.collected.failure and second.collected.failure.code) == (
        Verdict.REFUSED,
        "subscriber_busy",
    )


@pytest.mark.parametrize("provider", ["mpesa", "moniepoint"])
async def test_a_token_that_another_process_has_ended_is_renewed(bench: Bench, provider: str) -> None:
    await bench.collect(provider, "success")
    await bench.control("POST", "/reset")  # the simulator forgets every token; the adapter still holds one
    attempt = await bench.collect(provider, "success")
    assert attempt.collected.verdict is Verdict.REQUIRES_ACTION
    assert (await attempt.charges())["charges"] == 1


async def test_a_cancelled_session_at_stripe_can_no_longer_be_paid(bench: Bench) -> None:
    attempt = await bench.collect("stripe", "silent")
    credentials = bench.credentials["stripe"]
    result = await bench.adapters["stripe"].cancel(attempt.query, credentials)
    assert (result.verdict, result.reference) == (Verdict.CANCELLED, attempt.query.reference)
    assert (await attempt.fetch()).verdict is Verdict.EXPIRED
    again = await bench.adapters["stripe"].cancel(attempt.query, credentials)
    assert again.verdict is Verdict.EXPIRED


async def test_a_session_at_stripe_that_was_paid_cannot_be_cancelled(bench: Bench) -> None:
    attempt = await bench.collect("stripe", "success")
    assert (await attempt.ended()).verdict is Verdict.COMPLETED
    result = await bench.adapters["stripe"].cancel(attempt.query, bench.credentials["stripe"])
    assert (result.verdict, result.paid) == (Verdict.COMPLETED, Money(50_000, "USD"))


async def test_a_session_at_stripe_is_also_asked_for_by_its_payment_intent(bench: Bench) -> None:
    attempt = await bench.collect("stripe", "success")
    _, intent_id, charge_id = (await attempt.ended()).provider_references
    by_intent = dataclasses.replace(attempt.query, provider_references=(intent_id,))
    result = await bench.adapters["stripe"].fetch(by_intent, bench.credentials["stripe"])
    assert (result.verdict, result.reference) == (Verdict.COMPLETED, attempt.query.reference)
    assert (result.requested, result.paid) == (money(attempt), money(attempt))
    assert result.provider_references == (intent_id, charge_id)


@pytest.mark.parametrize("camel_case", [False, True])
@pytest.mark.parametrize("method", ["ussd", "card"])
async def test_cpay_is_understood_in_either_case(bench: Bench, method: str, camel_case: bool) -> None:
    await bench.control("POST", "/settings", cpay_camel_case=camel_case, cpay_card_as_page=camel_case)
    attempt = await bench.collect("cpay", "success", method=method)
    assert attempt.collected.verdict is Verdict.REQUIRES_ACTION
    assert attempt.collected.next_action is not None
    assert (attempt.collected.next_action.type is ActionType.REDIRECT) == (method == "card")
    assert (await attempt.ended()).verdict is Verdict.COMPLETED
    (event,) = await attempt.events()
    assert event.trust is Trust.CONFIRM


@pytest.mark.parametrize("outcome", ["timeout_after_charging", "server_error_after_charging", "dropped_after_charging"])
async def test_cpay_tells_by_our_reference_what_became_of_an_unknown_order(bench: Bench, outcome: str) -> None:
    attempt = await bench.collect("cpay", outcome)
    assert attempt.query.provider_references == ()
    result = await attempt.ended()
    assert (result.verdict, result.amount_bound) == (Verdict.COMPLETED, True)
    assert (await attempt.charges())["submissions"] == 1


async def test_cpay_does_not_know_an_order_that_never_arrived(bench: Bench) -> None:
    result = await (await bench.collect("cpay", "server_error")).fetch()
    assert (result.verdict, result.expirable) == (Verdict.NOT_FOUND, False)


async def test_a_wrong_secret_at_cpay_is_refused_by_its_message(bench: Bench) -> None:
    wrong = bench.credentials["cpay"].model_copy(update={"secret": SecretStr("another")})
    result = await bench.adapters["cpay"].collect(an_order(Money(50_000, "LSL"), **PAYERS["cpay"]), wrong)
    assert (result.verdict, result.failure.code) == (Verdict.REFUSED, "authentication_failed")


async def confirm(attempt: Attempt, otp: str) -> Result:
    bench, query = attempt.bench, dataclasses.replace(attempt.query, **PAYERS["cpay"])
    submission = Submission(ActionType.OTP, SecretStr(otp))
    result: Result = await bench.adapters["cpay"].submit(query, submission, bench.credentials["cpay"])
    return result


async def confirmations(bench: Bench) -> int:
    listed = await bench.control("GET", "/requests?provider=cpay")
    return sum(row["path"] == "/api/cpaypayments/confirm" for row in listed["requests"])


async def test_a_wrong_otp_at_cpay_may_be_followed_by_the_right_one(bench: Bench) -> None:
    attempt = await bench.collect("cpay", "success", method="otp")
    assert attempt.collected.next_action is not None
    assert attempt.collected.next_action.type is ActionType.OTP
    waiting = await attempt.fetch()
    assert waiting.verdict is Verdict.REQUIRES_ACTION
    assert waiting.next_action == attempt.collected.next_action
    wrong = await confirm(attempt, "654321")
    assert wrong.verdict is Verdict.REQUIRES_ACTION
    assert wrong.next_action is not None
    assert (await attempt.charges())["money_taken_minor"] == 0
    right = await confirm(attempt, "123456")
    assert (right.verdict, right.amount_bound) == (Verdict.COMPLETED, True)
    assert (await attempt.charges())["money_taken_minor"] == 50_000
    assert (await attempt.fetch()).verdict is Verdict.COMPLETED
    assert bench.webhooks == []


@pytest.mark.parametrize("outcome", ["timeout_after_charging", "server_error_after_charging", "dropped_after_charging"])
async def test_a_confirmation_at_cpay_whose_answer_is_lost_is_asked_about(bench: Bench, outcome: str) -> None:
    attempt = await bench.collect("cpay", outcome, method="otp")
    assert attempt.collected.verdict is Verdict.REQUIRES_ACTION
    assert (await confirm(attempt, "123456")).verdict is Verdict.UNKNOWN
    assert await confirmations(bench) == 1
    assert (await attempt.fetch()).verdict is Verdict.COMPLETED
    # Whoever confirms again all the same is not told that it failed.
    assert (await confirm(attempt, "123456")).verdict is Verdict.UNKNOWN
    assert (await attempt.charges())["money_taken_minor"] == 50_000


async def test_a_decline_after_the_right_otp_at_cpay_is_one(bench: Bench) -> None:
    attempt = await bench.collect("cpay", "decline", method="otp")
    result = await confirm(attempt, "123456")
    assert (result.verdict, result.failure and result.failure.code) == (Verdict.DECLINED, "declined")


async def test_a_payment_that_cpay_took_back_is_reversed(bench: Bench) -> None:
    attempt = await bench.collect("cpay", "success")
    await attempt.ended()
    await bench.control("POST", f"/charges/cpay/{attempt.query.reference}/reverse")
    assert (await attempt.fetch()).verdict is Verdict.REVERSED


@pytest.mark.parametrize("outcome", ["cancelled", "expired", "silent"])
async def test_a_checkout_at_flutterwave_that_nobody_tried_is_not_found(bench: Bench, outcome: str) -> None:
    attempt = await bench.collect("flutterwave", outcome)
    await asyncio.sleep(0.05)
    result = await attempt.fetch()
    assert (result.verdict, result.expirable) == (Verdict.NOT_FOUND, True)


@pytest.mark.parametrize(
    ("outcome", "verdict"), [("server_error_after_charging", Verdict.COMPLETED), ("server_error", Verdict.NOT_FOUND)]
)
async def test_flutterwave_tells_by_our_reference_what_became_of_an_unknown_order(
    bench: Bench, outcome: str, verdict: Verdict
) -> None:
    attempt = await bench.collect("flutterwave", outcome)
    assert attempt.query.provider_references == ()
    await until(attempt.fetch, lambda result: result.verdict is verdict)


async def test_a_reference_used_twice_at_flutterwave_is_unknown_and_then_asked(bench: Bench) -> None:
    first = await bench.collect("flutterwave", "success")
    second = await bench.collect("flutterwave", "success", reference=first.query.reference)
    assert second.collected.verdict is Verdict.UNKNOWN
    assert second.collected.raw_status == "400 Duplicate transaction reference"
    assert (await second.ended()).verdict is Verdict.COMPLETED
    assert (await second.charges())["charges"] == 1


@pytest.mark.parametrize("answers", ["newest", "oldest"])
async def test_a_success_after_a_failure_at_flutterwave_is_found_whichever_try_is_told(
    bench: Bench, answers: str
) -> None:
    await bench.control("POST", "/settings", flutterwave_reference_answers=answers)
    attempt = await bench.collect("flutterwave", "late_success_after_failure")
    declined, completed = [event.result for event in await attempt.events(2)]
    assert declined is not None
    assert completed is not None
    assert (declined.verdict, declined.session_open, declined.provider_references) == (Verdict.DECLINED, True, ())
    result = await attempt.fetch()
    assert (result.verdict, result.reference, result.paid) == (
        Verdict.COMPLETED,
        attempt.query.reference,
        money(attempt),
    )
    assert result.provider_references == completed.provider_references
    by_id = dataclasses.replace(attempt.query, provider_references=completed.provider_references)
    found = await bench.adapters["flutterwave"].fetch(by_id, bench.credentials["flutterwave"])
    assert found == result


async def test_a_page_at_flutterwave_that_was_closed_can_no_longer_be_paid(bench: Bench) -> None:
    attempt = await bench.collect("flutterwave", "silent")
    for _ in range(2):
        result = await bench.adapters["flutterwave"].cancel(attempt.query, bench.credentials["flutterwave"])
        assert (result.verdict, result.expirable) == (Verdict.CANCELLED, True)
    path = f"{bench.url}/_control/charges/flutterwave/{attempt.query.reference}/pay"
    assert (await bench.client.post(path)).status_code == 409


async def test_a_page_at_flutterwave_that_was_paid_is_not_cancelled(bench: Bench) -> None:
    attempt = await bench.collect("flutterwave", "success")
    assert (await attempt.ended()).verdict is Verdict.COMPLETED
    result = await bench.adapters["flutterwave"].cancel(attempt.query, bench.credentials["flutterwave"])
    assert (result.verdict, result.paid) == (Verdict.COMPLETED, money(attempt))


async def test_a_declined_customer_whose_page_at_flutterwave_is_closed_has_cancelled(bench: Bench) -> None:
    attempt = await bench.collect("flutterwave", "decline")
    assert (await attempt.ended()).verdict is Verdict.DECLINED
    result = await bench.adapters["flutterwave"].cancel(attempt.query, bench.credentials["flutterwave"])
    assert (result.verdict, result.session_open) == (Verdict.CANCELLED, False)


# Airtime and data at VTPass


@dataclasses.dataclass
class Bought:
    """A purchase and what was answered; `ask` makes its request's id again, from our reference and time alone."""

    bench: Bench
    order: PurchaseOrder
    result: Result

    async def ask(self) -> Result:
        order = self.order
        query = Query(Operation.PURCHASE, order.reference, (), order.amount, order.created_at)
        result: Result = await self.bench.adapters["vtpass"].fetch_purchase(query, self.bench.credentials["vtpass"])
        return result

    async def ended(self) -> Result:
        result: Result = await until(self.ask, lambda result: result.verdict is not Verdict.PROCESSING)
        return result

    async def charges(self) -> list[int]:
        listed = await self.bench.control("GET", "/charges?provider=vtpass")
        rows = [row for row in listed["charges"] if row["reference"].endswith(self.order.reference)]
        return [sum(row[name] for row in rows) for name in ("submissions", "charges", "money_taken_minor")]

    async def events(self, count: int = 1) -> list[ProviderEvent]:
        async def told() -> list[ProviderEvent]:
            adapter = self.bench.adapters["vtpass"]
            return [event for _, webhook in self.bench.webhooks for event in adapter.translate(webhook)]

        found: list[ProviderEvent] = await until(told, lambda found: len(found) >= count)
        return found


async def buy(bench: Bench, outcome: str = "success", **changes: Any) -> Bought:
    await bench.control("POST", "/outcomes", provider="vtpass", operation="purchase", outcome=outcome, times=1)
    reference = f"suite{next(numbers):021d}"
    order = PurchaseOrder(reference, TRANSACTION_ID, datetime.now(UTC), "mtn", Money(50_000, "NGN"), "+2348031234567")
    order = dataclasses.replace(order, **changes)
    adapter = bench.adapters["vtpass"]
    adapter.check_purchase(order)
    return Bought(bench, order, await adapter.purchase(order, bench.credentials["vtpass"]))


BUNDLE = {"service_id": "mtn-data", "variation_code": "mtn-10mb-100", "amount": Money(10_000, "NGN")}


@pytest.mark.parametrize("old_answers", [False, True])
@pytest.mark.parametrize("changes", [{}, BUNDLE], ids=["airtime", "data"])
async def test_what_vtpass_delivers_at_once_is_bought_once_and_told_by_no_webhook(
    bench: Bench, changes: dict[str, Any], old_answers: bool
) -> None:
    await bench.control("POST", "/settings", vtpass_old_answers=old_answers)
    bought = await buy(bench, **changes)
    # The older answer to airtime tells no status: it was accepted, and has to be asked about.
    accepted = Verdict.PROCESSING if old_answers and not changes else Verdict.COMPLETED
    assert bought.result.verdict is accepted
    asked = await bought.ask()
    assert (asked.verdict, asked.reference) == (Verdict.COMPLETED, bought.order.reference)
    assert (asked.requested, asked.paid, asked.fee) == (bought.order.amount, None, None)
    assert asked.provider_references == bought.result.provider_references
    assert await bought.charges() == [1, 1, bought.order.amount.minor]
    assert bench.webhooks == []


@pytest.mark.parametrize(
    ("outcome", "verdict", "failure"),
    [("asynchronous", Verdict.COMPLETED, None), ("asynchronous_failure", Verdict.DECLINED, "declined")],
)
async def test_a_pending_purchase_at_vtpass_is_ended_by_requery_and_hinted_at_by_webhook(
    bench: Bench, outcome: str, verdict: Verdict, failure: str | None
) -> None:
    bought = await buy(bench, outcome)
    assert bought.result.verdict is Verdict.PROCESSING
    ended = await bought.ended()
    assert (ended.verdict, ended.failure and ended.failure.code) == (verdict, failure)
    (event,) = await bought.events()
    assert (event.trust, event.operation, event.references) == (
        Trust.CONFIRM,
        Operation.PURCHASE,
        (bought.order.reference,),
    )
    assert event.provider_references == ended.provider_references
    assert event.result == ended


async def test_a_purchase_that_vtpass_declines_cost_nothing(bench: Bench) -> None:
    bought = await buy(bench, "decline")
    assert (bought.result.verdict, bought.result.raw_status) == (Verdict.DECLINED, "016 failed")
    assert (await bought.ask()).verdict is Verdict.DECLINED
    assert await bought.charges() == [1, 1, 0]


async def test_a_delivery_that_vtpass_takes_back_has_failed(bench: Bench) -> None:
    bought = await buy(bench, "late_failure")
    assert bought.result.verdict is Verdict.COMPLETED
    (event,) = await bought.events()
    assert event.result is not None
    assert (event.result.verdict, event.result.raw_status) == (Verdict.DECLINED, "040 reversed")
    asked = await bought.ask()
    assert (asked.verdict, asked.requested) == (Verdict.DECLINED, None)


@pytest.mark.parametrize("outcome", ["timeout_after_charging", "server_error_after_charging", "dropped_after_charging"])
async def test_a_purchase_at_vtpass_whose_answer_was_lost_is_found_by_the_same_id(bench: Bench, outcome: str) -> None:
    bought = await buy(bench, outcome)
    assert (bought.result.verdict, bought.result.failure) == (Verdict.UNKNOWN, None)
    asked = await bought.ask()
    assert (asked.verdict, asked.requested) == (Verdict.COMPLETED, bought.order.amount)
    assert await bought.charges() == [1, 1, 50_000]


@pytest.mark.parametrize("outcome", ["server_error", "html_error", "rate_limited"])
async def test_a_purchase_that_never_reached_vtpass_is_unknown_and_then_not_known(bench: Bench, outcome: str) -> None:
    bought = await buy(bench, outcome)
    assert bought.result.verdict is Verdict.UNKNOWN
    asked = await bought.ask()
    assert (asked.verdict, asked.expirable) == (Verdict.NOT_FOUND, False)
    assert await bought.charges() == [1, 0, 0]


async def test_the_same_purchase_sent_twice_to_vtpass_is_unknown_and_bought_once(bench: Bench) -> None:
    first = await buy(bench)
    again = await bench.adapters["vtpass"].purchase(first.order, bench.credentials["vtpass"])
    assert (again.verdict, again.raw_status) == (Verdict.UNKNOWN, "014")
    assert (await first.ask()).verdict is Verdict.COMPLETED
    assert await first.charges() == [2, 1, 50_000]


async def test_a_number_charged_a_moment_ago_is_unknown_to_us_and_not_charged_by_vtpass(bench: Bench) -> None:
    await bench.control("POST", "/settings", vtpass_repeat_seconds=30)
    await buy(bench)
    second = await buy(bench)
    assert (second.result.verdict, second.result.raw_status) == (Verdict.UNKNOWN, "019")
    assert (await second.ask()).verdict is Verdict.NOT_FOUND


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({**BUNDLE, "variation_code": "mtn-nothing"}, "unknown_variation"),
        ({"service_id": "nothing"}, "unknown_service"),
        ({"amount": Money(400, "NGN")}, "amount_too_small"),
        ({"amount": Money(50_000_100, "NGN")}, "amount_too_large"),
        ({"created_at": datetime(2026, 1, 1, tzinfo=UTC)}, "invalid_request"),
    ],
)
async def test_an_order_that_vtpass_refuses_says_why_and_buys_nothing(
    bench: Bench, changes: dict[str, Any], code: str
) -> None:
    bought = await buy(bench, **changes)
    assert (bought.result.verdict, bought.result.failure and bought.result.failure.code) == (Verdict.REFUSED, code)
    assert await bought.charges() == [0, 0, 0]


async def test_an_empty_wallet_at_vtpass_is_refused(bench: Bench) -> None:
    bought = await buy(bench, "refuse")
    assert (bought.result.verdict, bought.result.raw_status) == (Verdict.REFUSED, "018")


async def test_the_face_value_of_another_bundle_is_told_as_it_is(bench: Bench) -> None:
    """A fixed price goes before the amount sent: whoever compares sees that it is another."""
    bought = await buy(bench, **{**BUNDLE, "amount": Money(9_000, "NGN")})
    assert (bought.result.verdict, bought.result.requested) == (Verdict.COMPLETED, Money(10_000, "NGN"))
    half = await buy(bench, "wrong_amount")
    assert (half.result.verdict, half.result.requested) == (Verdict.COMPLETED, Money(25_000, "NGN"))


async def test_a_requery_that_fails_says_nothing(bench: Bench) -> None:
    bought = await buy(bench, "webhook_only")
    (event,) = await bought.events()
    assert event.result is not None
    assert event.result.verdict is Verdict.COMPLETED
    assert (await bought.ask()).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("old_answers", [False, True])
async def test_what_vtpass_sells_is_listed(bench: Bench, old_answers: bool) -> None:
    await bench.control("POST", "/settings", vtpass_old_answers=old_answers)
    adapter, credentials = bench.adapters["vtpass"], bench.credentials["vtpass"]
    airtime = await adapter.services(ServiceCategory.AIRTIME, credentials)
    assert [service.id for service in airtime] == ["mtn", "glo", "airtel", "etisalat"]
    assert (airtime[0].smallest, airtime[0].largest) == (Money(500, "NGN"), Money(50_000_000, "NGN"))
    data = await adapter.services(ServiceCategory.DATA, credentials)
    assert "mtn-data" in {service.id for service in data}
    bundles = await adapter.variations("mtn-data", credentials)
    assert bundles[0] == AirtimeVariation("mtn-10mb-100", "N100 100MB - 24 hrs", Money(10_000, "NGN"))
    with pytest.raises(LookupFailed) as failed:
        await adapter.variations("nothing", credentials)
    assert failed.value.failure is not None
    assert failed.value.failure.code == "unknown_service"


async def test_wrong_keys_at_vtpass_are_refused(bench: Bench) -> None:
    adapter, credentials = bench.adapters["vtpass"], bench.credentials["vtpass"]
    bought = await buy(bench)
    wrong = credentials.model_copy(update={"secret_key": SecretStr("SK_another")})
    refused = await adapter.purchase(dataclasses.replace(bought.order, reference="another"), wrong)
    assert (refused.verdict, refused.failure.code) == (Verdict.REFUSED, "authentication_failed")
    # Nothing is said of what was bought before.
    query = Query(Operation.PURCHASE, bought.order.reference, (), bought.order.amount, bought.order.created_at)
    assert (await adapter.fetch_purchase(query, wrong)).verdict is Verdict.UNKNOWN
    with pytest.raises(LookupFailed) as failed:
        await adapter.services(
            ServiceCategory.DATA, credentials.model_copy(update={"public_key": SecretStr("PK_another")})
        )
    assert failed.value.failure is not None
    assert failed.value.failure.code == "authentication_failed"


# Refunds and transfers out of Moniepoint, transfers out of C-Pay


@dataclasses.dataclass
class Refund:
    attempt: Attempt
    query: RefundQuery
    started: Result

    async def fetch(self) -> Result:
        bench, name = self.attempt.bench, self.attempt.provider
        result: Result = await bench.adapters[name].fetch_refund(self.query, bench.credentials[name])
        return result

    async def ended(self) -> Result:
        result: Result = await until(self.fetch, lambda result: result.verdict is not Verdict.PROCESSING)
        return result

    async def events(self, count: int = 1) -> list[ProviderEvent]:
        """The next events of this refund, each proven and translated by the adapter."""

        async def translated() -> list[ProviderEvent]:
            bench, name = self.attempt.bench, self.attempt.provider
            adapter, found = bench.adapters[name], []
            for provider, webhook in bench.webhooks:
                if provider == name:
                    adapter.verify_webhook(webhook, [bench.credentials[name]])
                    found += adapter.translate(webhook)
            return [event for event in found if self.query.reference in event.references]

        found: list[ProviderEvent] = await until(translated, lambda found: len(found) >= count)
        return found


async def paid_at_moniepoint(bench: Bench) -> Attempt:
    attempt = await bench.collect("moniepoint", "success")
    result = await attempt.ended()
    assert result.verdict is Verdict.COMPLETED
    return dataclasses.replace(
        attempt, query=dataclasses.replace(attempt.query, provider_references=result.provider_references)
    )


async def refund(attempt: Attempt, minor: int, outcome: str = "success", reference: str | None = None) -> Refund:
    bench, name = attempt.bench, attempt.provider
    await bench.control("POST", "/outcomes", provider=name, outcome=outcome, times=1, operation="refund")
    amount = Money(minor, attempt.query.amount.currency)
    order = RefundOrder(
        reference=reference or f"refund{next(numbers):020d}",
        transaction_id=TRANSACTION_ID,
        payment=attempt.query,
        amount=amount,
        whole=amount == attempt.query.amount,
        callback_url="http://merchant.test/api/v1/webhooks/moniepoint/abc",
        reason="Returned goods",
    )
    bench.adapters[name].check_refund(order)
    started = await bench.adapters[name].refund(order, bench.credentials[name])
    query = RefundQuery(
        order.reference, started.provider_references, amount, datetime.now(UTC) - timedelta(hours=1), attempt.query
    )
    return Refund(attempt, query, started)


async def test_moniepoint_refunds_a_part_and_then_the_rest_but_no_more(bench: Bench) -> None:
    attempt = await paid_at_moniepoint(bench)
    for minor in (20_000, 30_000):
        given_back = await refund(attempt, minor)
        assert (given_back.started.verdict, given_back.started.requested) == (Verdict.PROCESSING, Money(minor, "NGN"))
        (event,) = await given_back.events()
        assert (event.trust, event.operation) == (Trust.SIGNED, Operation.REFUND)
        assert event.payment_references == attempt.query.provider_references
        assert event.result is not None
        result = await given_back.fetch()
        for told in (event.result, result):
            assert (told.verdict, told.requested) == (Verdict.COMPLETED, Money(minor, "NGN"))
            assert told.provider_references == (given_back.query.reference,)
    assert (await attempt.charges())["refunded_minor"] == 50_000
    too_much = await refund(attempt, 10_000)
    assert too_much.started.verdict is Verdict.REFUSED
    assert too_much.started.failure is not None
    assert too_much.started.failure.code == "already_refunded"
    assert (await attempt.charges())["refunded_minor"] == 50_000
    assert (await attempt.fetch()).verdict is Verdict.COMPLETED


async def test_moniepoint_refunds_no_more_than_is_left_while_one_is_under_way(bench: Bench) -> None:
    attempt = await paid_at_moniepoint(bench)
    assert (await refund(attempt, 30_000, "silent")).started.verdict is Verdict.PROCESSING
    second = await refund(attempt, 30_000)
    assert (second.started.verdict, second.started.failure and second.started.failure.code) == (
        Verdict.REFUSED,
        "refund_too_large",
    )


async def test_a_refund_at_moniepoint_that_fails_leaves_all_to_be_refunded(bench: Bench) -> None:
    attempt = await paid_at_moniepoint(bench)
    failed = await refund(attempt, 50_000, "decline")
    assert failed.started.verdict is Verdict.PROCESSING
    (event,) = await failed.events()
    assert event.result is not None
    for told in (event.result, await failed.fetch()):
        assert (told.verdict, told.failure and told.failure.code) == (Verdict.DECLINED, "refund_failed")
    again = await refund(attempt, 50_000)
    assert (await again.ended()).verdict is Verdict.COMPLETED
    assert (await attempt.charges())["refunded_minor"] == 50_000


async def test_a_refund_at_moniepoint_may_fail_after_its_success(bench: Bench) -> None:
    late = await refund(await paid_at_moniepoint(bench), 50_000, "late_failure")
    told = [event.result.verdict for event in await late.events(2) if event.result]
    assert told == [Verdict.COMPLETED, Verdict.DECLINED]
    assert (await late.fetch()).verdict is Verdict.DECLINED


@pytest.mark.parametrize("outcome", ["timeout_after_charging", "server_error_after_charging", "dropped_after_charging"])
async def test_moniepoint_tells_by_our_reference_what_became_of_a_refund(bench: Bench, outcome: str) -> None:
    attempt = await paid_at_moniepoint(bench)
    lost = await refund(attempt, 50_000, outcome)
    assert (lost.started.verdict, lost.query.provider_references) == (Verdict.UNKNOWN, ())
    assert (await lost.ended()).verdict is Verdict.COMPLETED
    # The same reference again is not a second refund, and not a failure either.
    again = await refund(attempt, 50_000, reference=lost.query.reference)
    assert again.started.verdict is Verdict.UNKNOWN
    assert (await attempt.charges())["refunded_minor"] == 50_000


@pytest.mark.parametrize("outcome", ["server_error", "html_error"])
async def test_a_refund_that_never_reached_moniepoint_is_not_found_after_a_while(bench: Bench, outcome: str) -> None:
    lost = await refund(await paid_at_moniepoint(bench), 50_000, outcome)
    assert lost.started.verdict is Verdict.UNKNOWN
    assert (await lost.fetch()).verdict is Verdict.NOT_FOUND
    young = dataclasses.replace(lost, query=dataclasses.replace(lost.query, created_at=datetime.now(UTC)))
    assert (await young.fetch()).verdict is Verdict.UNKNOWN


async def test_moniepoint_refuses_a_refund_from_an_empty_wallet_and_of_a_card(bench: Bench) -> None:
    refused = await refund(await paid_at_moniepoint(bench), 50_000, "refuse")
    assert (refused.started.verdict, refused.started.failure and refused.started.failure.code) == (
        Verdict.REFUSED,
        "insufficient_balance",
    )
    card = await bench.collect("moniepoint", "success", method="card")
    await card.ended()
    refused = await refund(card, 50_000)
    assert (refused.started.verdict, refused.started.failure and refused.started.failure.code) == (
        Verdict.REFUSED,
        "refund_not_possible",
    )


DESTINATIONS = {
    "moniepoint": Destination(DestinationType.BANK_ACCOUNT, "Simulated Holder", "058", "0123456789"),
    "cpay": Destination(DestinationType.MOBILE_MONEY, "Thabo Mokoena", "mpesa", phone="+26657012345"),
}


async def pay_out(bench: Bench, provider: str, outcome: str = "success", **changes: Any) -> Attempt:
    await bench.control("POST", "/outcomes", provider=provider, outcome=outcome, times=1, operation="payout")
    order = PayoutOrder(
        reference=f"payout{next(numbers):020d}",
        transaction_id=TRANSACTION_ID,
        amount=Money(50_000, CURRENCIES[provider]),
        destination=DESTINATIONS[provider],
        callback_url=f"http://merchant.test/api/v1/webhooks/{provider}/abc",
        description="Withdrawal",
    )
    order = dataclasses.replace(order, **changes)
    adapter = bench.adapters[provider]
    adapter.check_payout(order)
    result = await adapter.pay_out(order, bench.credentials[provider])
    query = Query(
        Operation.PAYOUT, order.reference, result.provider_references, order.amount, datetime.now(UTC)
    )  # fmt: skip
    return Attempt(bench, provider, query, result)


async def sent(attempt: Attempt) -> Result:
    bench = attempt.bench
    result: Result = await bench.adapters[attempt.provider].fetch_payout(
        attempt.query, bench.credentials[attempt.provider]
    )
    return result


async def payouts(attempt: Attempt) -> tuple[int, str | None]:
    """How many exist under this reference, and how the last one stands."""
    row = await attempt.charges()
    assert {item["operation"] for item in row["attempts"]} == {"payout"}
    return row["charges"], row["status"]


async def test_a_transfer_by_moniepoint_is_told_at_once_by_webhook_and_by_query(bench: Bench) -> None:
    attempt = await pay_out(bench, "moniepoint")
    (event,) = await attempt.events()
    assert (event.trust, event.operation, event.references) == (
        Trust.SIGNED,
        Operation.PAYOUT,
        (attempt.query.reference,),
    )
    assert event.result is not None
    for told in (attempt.collected, event.result, await sent(attempt)):
        assert (told.verdict, told.requested, told.fee) == (Verdict.COMPLETED, money(attempt), Money(1_000, "NGN"))
    assert await payouts(attempt) == (1, "paid")


async def authorise(attempt: Attempt, code: str) -> Result:
    bench = attempt.bench
    result: Result = await bench.adapters["moniepoint"].submit(
        attempt.query, Submission(ActionType.OTP, SecretStr(code)), bench.credentials["moniepoint"]
    )
    return result


async def test_a_transfer_by_moniepoint_waits_for_the_right_code(bench: Bench) -> None:
    attempt = await pay_out(bench, "moniepoint", "needs_otp")
    assert attempt.collected.verdict is Verdict.REQUIRES_ACTION
    assert attempt.collected.next_action is not None
    assert attempt.collected.next_action.type is ActionType.OTP
    assert (await sent(attempt)).next_action == attempt.collected.next_action
    wrong = await authorise(attempt, "654321")
    assert wrong.verdict is Verdict.REQUIRES_ACTION
    assert wrong.next_action is not None
    assert wrong.next_action != attempt.collected.next_action
    assert await payouts(attempt) == (1, "pending")
    right = await authorise(attempt, "123456")
    assert (right.verdict, right.requested) == (Verdict.COMPLETED, money(attempt))
    (event,) = await attempt.events()
    assert event.type == "SUCCESSFUL_DISBURSEMENT"
    # A code given twice changes nothing: the transfer says how it stands.
    assert (await authorise(attempt, "123456")).verdict is Verdict.COMPLETED
    assert await payouts(attempt) == (1, "paid")


@pytest.mark.parametrize(
    ("outcome", "verdicts", "failure"),
    [
        ("decline", [Verdict.DECLINED], "transfer_failed"),
        ("late_failure", [Verdict.COMPLETED, Verdict.REVERSED], None),
        ("duplicate", [Verdict.COMPLETED] * 3, None),
    ],
)
async def test_a_transfer_by_moniepoint_that_ends_otherwise_is_told_so(
    bench: Bench, outcome: str, verdicts: list[Verdict], failure: str | None
) -> None:
    attempt = await pay_out(bench, "moniepoint", outcome)
    events = await attempt.events(len(verdicts))
    assert [event.result.verdict for event in events if event.result] == verdicts
    assert len({event.dedupe_key for event in events}) == len(set(verdicts))
    result = await sent(attempt)
    assert (result.verdict, result.failure and result.failure.code) == (verdicts[-1], failure)


@pytest.mark.parametrize("provider", DESTINATIONS)
@pytest.mark.parametrize("outcome", ["timeout_after_charging", "server_error_after_charging", "dropped_after_charging"])
async def test_a_transfer_whose_answer_is_lost_is_found_by_our_reference(
    bench: Bench, provider: str, outcome: str
) -> None:
    attempt = await pay_out(bench, provider, outcome)
    assert (attempt.collected.verdict, attempt.query.provider_references) == (Verdict.UNKNOWN, ())
    result = await until(lambda: sent(attempt), lambda result: result.verdict is Verdict.COMPLETED)
    assert result.amount_bound or result.requested == money(attempt)
    again = await pay_out(bench, provider, reference=attempt.query.reference)
    assert again.collected.verdict is Verdict.UNKNOWN
    await until(lambda: payouts(attempt), lambda found: found == (1, "paid"))


@pytest.mark.parametrize("provider", DESTINATIONS)
@pytest.mark.parametrize("outcome", ["server_error", "html_error"])
async def test_a_transfer_that_never_arrived_is_not_found_which_proves_nothing(
    bench: Bench, provider: str, outcome: str
) -> None:
    attempt = await pay_out(bench, provider, outcome)
    assert attempt.collected.verdict is Verdict.UNKNOWN
    result = await sent(attempt)
    assert (result.verdict, result.expirable) == (Verdict.NOT_FOUND, False)


@pytest.mark.parametrize(
    ("provider", "outcome", "failure"),
    [
        ("moniepoint", "refuse", "insufficient_balance"),
        ("moniepoint", "rate_limited", "rate_limited"),
        ("cpay", "refuse", "invalid_phone"),
        ("cpay", "rate_limited", "rate_limited"),
    ],
)
async def test_a_transfer_that_is_refused_was_never_made(
    bench: Bench, provider: str, outcome: str, failure: str
) -> None:
    attempt = await pay_out(bench, provider, outcome)
    assert (attempt.collected.verdict, attempt.collected.failure and attempt.collected.failure.code) == (
        Verdict.REFUSED,
        failure,
    )
    assert await payouts(attempt) == (0, None)


async def test_moniepoint_refuses_the_same_transfer_within_two_minutes_and_an_unknown_account(bench: Bench) -> None:
    await pay_out(bench, "moniepoint")
    repeated = await pay_out(bench, "moniepoint")
    unknown = await pay_out(
        bench, "moniepoint", destination=dataclasses.replace(DESTINATIONS["moniepoint"], account_number="0000000000")
    )
    assert [item.collected.failure and item.collected.failure.code for item in (repeated, unknown)] == [
        "repeated_transfer",
        "invalid_account",
    ]
    other = await pay_out(bench, "moniepoint", amount=Money(60_000, "NGN"))
    assert other.collected.verdict is Verdict.COMPLETED


async def test_moniepoint_lists_banks_and_names_the_holder_of_an_account(bench: Bench) -> None:
    adapter, credentials = bench.adapters["moniepoint"], bench.credentials["moniepoint"]
    banks = await adapter.banks("NGN", credentials)
    assert ("058", "GTBank", "NGN") in [(bank.code, bank.name, bank.currency) for bank in banks]
    holder = await adapter.resolve_account(DESTINATIONS["moniepoint"], credentials)
    assert (holder.name, holder.bank_code) == ("SIMULATED HOLDER", "058")
    with pytest.raises(LookupFailed) as failed:
        await adapter.resolve_account(
            dataclasses.replace(DESTINATIONS["moniepoint"], account_number="0000000000"), credentials
        )
    assert failed.value.failure is not None
    assert failed.value.failure.code == "invalid_account"
