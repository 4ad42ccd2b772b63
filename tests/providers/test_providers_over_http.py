"""The adapters over real HTTP against the simulator, which has its own words and its own signing: order, webhook, query."""

import asyncio
import contextlib
import dataclasses
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from payflow.core.money import Money
from payflow.gateway.contract import (
    ActionType,
    Customer,
    ProviderEvent,
    Query,
    Result,
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
from payflow.simulator import SimulatorSettings, create_simulator
from tests.providers.contract_suite import a_query, an_order

ADAPTERS: dict[str, Any] = {
    "paystack": Paystack,
    "mpesa": Mpesa,
    "stripe": Stripe,
    "standardbank_pay": StandardBankPay,
    "moniepoint": Moniepoint,
    "cpay": Cpay,
    "flutterwave": Flutterwave,
}
BY_PATH = {adapter.declaration.path_name: name for name, adapter in ADAPTERS.items()}
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
    async with asyncio.timeout(3):
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
            name: adapter(http, f"{url}/{name}", lambda: datetime.now(UTC)) for name, adapter in ADAPTERS.items()
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
            ),
            "cpay": CpayCredentials(
                api_key=SecretStr(settings.cpay_api_key),
                client_code=settings.cpay_client_code,
                secret=SecretStr(settings.cpay_secret),
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
        return httpx.Response(200)

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


async def test_a_session_at_stripe_is_also_found_by_its_payment_intent(bench: Bench) -> None:
    attempt = await bench.collect("stripe", "success")
    session_id, intent_id = (await attempt.ended()).provider_references
    by_intent = dataclasses.replace(attempt.query, provider_references=(intent_id,))
    result = await bench.adapters["stripe"].fetch(by_intent, bench.credentials["stripe"])
    assert (result.verdict, result.provider_references) == (Verdict.COMPLETED, (session_id, intent_id))


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
    await asyncio.sleep(0.05)
    assert (await attempt.fetch()).verdict is verdict


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
