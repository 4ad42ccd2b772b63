"""Flutterwave beyond its page, over real HTTP against the simulator: direct charges, refunds, transfers, banks."""

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
    Bank,
    Customer,
    Destination,
    DestinationType,
    LookupFailed,
    Operation,
    PaymentDetails,
    PayoutOrder,
    ProviderEvent,
    Query,
    RefundOrder,
    RefundQuery,
    Result,
    Submission,
    Verdict,
    WebhookRefused,
    WebhookRequest,
)
from payflow.gateway.http import ProviderHttp, build_http
from payflow.providers.flutterwave import Flutterwave, FlutterwaveCredentials
from payflow.simulator import SimulatorSettings, create_simulator
from tests.providers.contract_suite import CALLBACK_URL, TRANSACTION_ID, an_order

numbers = itertools.count(1)
NGN = Money(50_000, "NGN")
PHONES = {"GHS": "+233542773934", "KES": "+254712345678", "XOF": "+225712345678"}
ACCOUNT = PaymentDetails(bank_code="044", account_number=SecretStr("0690000031"))
ACCOUNT_TO_PAY = Destination(DestinationType.BANK_ACCOUNT, bank_code="044", account_number="0690000040")
LOST = ["timeout_after_charging", "server_error_after_charging", "dropped_after_charging"]


def a_reference() -> str:
    return f"att{next(numbers):026d}"


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Bench:
    def __init__(self, settings: SimulatorSettings, http: ProviderHttp, client: httpx.AsyncClient) -> None:
        self.url = settings.base_url
        self.client = client
        self.webhooks: list[WebhookRequest] = []
        self.adapter = Flutterwave(http, f"{self.url}/flutterwave", lambda: datetime.now(UTC))
        self.credentials = FlutterwaveCredentials(
            secret_key=SecretStr(settings.flutterwave_secret_key),
            secret_hash=SecretStr(settings.flutterwave_secret_hash),
        )

    async def control(self, method: str, path: str, **body: Any) -> Any:
        response = await self.client.request(method, f"{self.url}/_control{path}", json=body or None)
        assert response.is_success, response.text
        return response.json()

    async def outcome(self, name: str, operation: str = "collect") -> None:
        await self.control("POST", "/outcomes", provider="flutterwave", outcome=name, times=1, operation=operation)

    async def submissions(self, reference: str) -> list[dict[str, Any]]:
        listed = await self.control("GET", f"/charges?provider=flutterwave&reference={reference}")
        rows: list[dict[str, Any]] = listed["charges"][0]["attempts"]
        return rows

    async def collect(self, outcome: str = "success", **changes: Any) -> tuple[Result, Query]:
        await self.outcome(outcome)
        amount = changes.pop("amount", NGN)
        customer = Customer(email="ada@customer.example", phone=PHONES.get(amount.currency), name="Ada")
        order = an_order(amount, reference=a_reference(), customer=customer, **changes)
        self.adapter.check(order)
        result = await self.adapter.collect(order, self.credentials)
        query = Query(
            Operation.COLLECT, order.reference, result.provider_references, amount, datetime.now(UTC), customer
        )
        return result, query

    async def ended(self, query: Query) -> Result:
        ends = {Verdict.COMPLETED, Verdict.DECLINED}
        return await until(lambda: self.adapter.fetch(query, self.credentials), lambda it: it.verdict in ends)

    async def paid(self, **changes: Any) -> Query:
        """A payment as the service knows it once it was paid."""
        _, query = await self.collect(**changes)
        result = await self.ended(query)
        assert result.verdict is Verdict.COMPLETED
        fresh = tuple(item for item in result.provider_references if item not in query.provider_references)
        return dataclasses.replace(query, provider_references=(*query.provider_references, *fresh))

    async def refund(self, payment: Query, minor: int, outcome: str = "success") -> tuple[Result, RefundQuery]:
        await self.outcome(outcome, "refund")
        amount = Money(minor, payment.amount.currency)
        order = RefundOrder(a_reference(), TRANSACTION_ID, payment, amount, amount == payment.amount, CALLBACK_URL)
        ordered_at = datetime.now(UTC)
        self.adapter.check_refund(order)
        result = await self.adapter.refund(order, self.credentials)
        return result, RefundQuery(order.reference, result.provider_references, amount, ordered_at, payment)

    async def refund_is(self, query: RefundQuery, verdict: Verdict) -> Result:
        return await until(lambda: self.adapter.fetch_refund(query, self.credentials), lambda it: it.verdict is verdict)

    async def pay_out(self, outcome: str = "success", **changes: Any) -> tuple[Result, Query]:
        await self.outcome(outcome, "payout")
        order = PayoutOrder(a_reference(), TRANSACTION_ID, NGN, ACCOUNT_TO_PAY, CALLBACK_URL)
        order = dataclasses.replace(order, **changes)
        self.adapter.check_payout(order)
        result = await self.adapter.pay_out(order, self.credentials)
        query = Query(Operation.PAYOUT, order.reference, result.provider_references, order.amount, datetime.now(UTC))
        return result, query

    async def payout_is(self, query: Query, verdict: Verdict) -> Result:
        return await until(lambda: self.adapter.fetch_payout(query, self.credentials), lambda it: it.verdict is verdict)

    def events(self, operation: Operation, credentials: FlutterwaveCredentials | None = None) -> list[ProviderEvent]:
        """Those told so far, each proven and translated."""
        found: list[ProviderEvent] = []
        for webhook in self.webhooks:
            self.adapter.verify_webhook(webhook, [credentials or self.credentials])
            found += self.adapter.translate(webhook)
        return [event for event in found if event.operation is operation]

    async def told(self, operation: Operation, count: int) -> list[ProviderEvent]:
        async def ask() -> list[ProviderEvent]:
            return self.events(operation)

        return await until(ask, lambda found: len(found) >= count)


async def until(ask: Callable[[], Awaitable[Any]], fits: Callable[[Any], bool]) -> Any:
    """What `ask` gives once it fits; nobody tells us when the simulator's customer has acted."""
    async with asyncio.timeout(30):
        while not fits(found := await ask()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Bench]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    bench: Bench

    async def receive(request: httpx.Request) -> httpx.Response:
        headers = {key.lower(): value for key, value in request.headers.items()}
        bench.webhooks.append(WebhookRequest(headers, await request.aread(), datetime.now(UTC)))
        return httpx.Response(200)

    settings = SimulatorSettings(port=listener.getsockname()[1], customer_delay_seconds=0.05, slow_seconds=0.1)
    app = create_simulator(settings, transport=httpx.MockTransport(receive))
    server = Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="on"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    async with (
        build_http(timeout_seconds=0.5, connect_timeout_seconds=1, connections=20) as http,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        bench = Bench(settings, http, client)
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


# Direct charges

OTP = Submission(ActionType.OTP, SecretStr("908172"))


async def test_an_account_is_charged_once_its_owner_gives_the_code(bench: Bench) -> None:
    result, query = await bench.collect(method="bank", details=ACCOUNT)
    assert result.next_action is not None
    assert (result.verdict, result.next_action.type) == (Verdict.REQUIRES_ACTION, ActionType.OTP)
    assert (await bench.adapter.fetch(query, bench.credentials)).verdict is Verdict.REQUIRES_ACTION
    wrong = await bench.adapter.submit(query, Submission(ActionType.OTP, SecretStr("5548")), bench.credentials)
    assert wrong.verdict is Verdict.UNKNOWN
    assert (await bench.adapter.fetch(query, bench.credentials)).verdict is Verdict.REQUIRES_ACTION
    right = await bench.adapter.submit(query, OTP, bench.credentials)
    assert (right.verdict, right.requested, right.reference) == (Verdict.COMPLETED, NGN, query.reference)
    assert (await bench.adapter.fetch(query, bench.credentials)).verdict is Verdict.COMPLETED
    (event,) = await bench.told(Operation.COLLECT, 1)
    assert (event.references, event.result and event.result.verdict) == ((query.reference,), Verdict.COMPLETED)


@pytest.mark.parametrize(
    ("otp", "outcome", "code"), [("6648", "success", "insufficient_funds"), ("1", "decline", "declined")]
)
async def test_an_account_that_is_not_charged_ends_the_charge(bench: Bench, otp: str, outcome: str, code: str) -> None:
    _, query = await bench.collect(outcome, method="bank", details=ACCOUNT)
    told = await bench.adapter.submit(query, Submission(ActionType.OTP, SecretStr(otp)), bench.credentials)
    asked = await bench.adapter.fetch(query, bench.credentials)
    for result in (told, asked):
        assert (result.verdict, result.failure and result.failure.code) == (Verdict.DECLINED, code)
        assert not result.session_open
    assert asked.expirable


async def test_after_the_code_a_slow_bank_is_waited_for(bench: Bench) -> None:
    _, query = await bench.collect("asynchronous", method="bank", details=ACCOUNT)
    told = await bench.adapter.submit(query, OTP, bench.credentials)
    assert told.verdict is Verdict.PROCESSING
    query = dataclasses.replace(query, provider_references=(*query.provider_references, *told.provider_references))
    assert (await bench.ended(query)).verdict is Verdict.COMPLETED


@pytest.mark.parametrize(
    ("currency", "method", "details", "action"),
    [
        ("NGN", "bank_transfer", PaymentDetails(), ActionType.TRANSFER),
        ("NGN", "ussd", PaymentDetails(bank_code="058"), ActionType.USSD),
        ("KES", "mobile_money", PaymentDetails(), ActionType.HANDSET_PROMPT),
        ("XOF", "mobile_money", PaymentDetails(), ActionType.HANDSET_PROMPT),
        ("GHS", "mobile_money", PaymentDetails(operator="mtn"), ActionType.REDIRECT),
    ],
)
async def test_every_other_direct_charge_names_a_next_step_and_is_paid(
    bench: Bench, currency: str, method: str, details: PaymentDetails, action: ActionType
) -> None:
    amount = Money(50_000, currency)
    result, query = await bench.collect(method=method, details=details, amount=amount)
    assert result.next_action is not None
    assert (result.verdict, result.next_action.type) == (Verdict.REQUIRES_ACTION, action)
    ended = await bench.ended(query)
    assert (ended.verdict, ended.requested, ended.reference) == (Verdict.COMPLETED, amount, query.reference)


@pytest.mark.parametrize("outcome", LOST)
async def test_a_direct_charge_without_an_answer_is_unknown_and_found_by_our_reference(
    bench: Bench, outcome: str
) -> None:
    result, query = await bench.collect(outcome, method="ussd", details=PaymentDetails(bank_code="058"))
    assert (result.verdict, query.provider_references) == (Verdict.UNKNOWN, ())
    assert (await bench.ended(query)).requested == NGN
    assert len(await bench.submissions(query.reference)) == 1


# Refunds


async def test_a_refund_is_begun_and_later_done(bench: Bench) -> None:
    payment = await bench.paid()
    begun, query = await bench.refund(payment, 20_000)
    assert (begun.verdict, begun.raw_status, begun.requested) == (
        Verdict.PROCESSING, "completed", Money(20_000, "NGN"),
    )  # fmt: skip
    done = await bench.refund_is(query, Verdict.COMPLETED)
    assert (done.raw_status, done.requested) == ("completed-mpgs", Money(20_000, "NGN"))
    first, last = await bench.told(Operation.REFUND, 2)
    for event, verdict in ((first, Verdict.PROCESSING), (last, Verdict.COMPLETED)):
        assert event.provider_references == query.provider_references
        assert event.payment_references == (payment.provider_references[-1],)
        assert (event.result and event.result.verdict, event.dedupe_key) == (verdict, None)


async def test_parts_are_refunded_up_to_the_whole_and_nothing_above_it(bench: Bench) -> None:
    payment = await bench.paid()
    _, part = await bench.refund(payment, 30_000)
    above, query = await bench.refund(payment, 20_001)
    # In which words is not documented, so what was refused is not known to be, and is nowhere to be found.
    assert above.verdict is Verdict.UNKNOWN
    taken = dataclasses.replace(query, taken=part.provider_references)
    assert (await bench.adapter.fetch_refund(taken, bench.credentials)).raw_status == "not listed"
    _, rest = await bench.refund(payment, 20_000)
    await bench.refund_is(part, Verdict.COMPLETED)
    await bench.refund_is(rest, Verdict.COMPLETED)
    assert (await bench.refund(payment, 1))[0].verdict is Verdict.UNKNOWN
    row = (await bench.control("GET", f"/charges?provider=flutterwave&reference={payment.reference}"))["charges"][0]
    assert (row["refunded_minor"], row["refund_submissions"]) == (50_000, 2)


async def test_a_whole_payment_by_wallet_goes_back_to_the_wallet(bench: Bench) -> None:
    payment = await bench.paid(method="mobile_money", details=PaymentDetails(), amount=Money(50_000, "KES"))
    _, query = await bench.refund(payment, 50_000)
    assert (await bench.refund_is(query, Verdict.COMPLETED)).raw_status == "completed-momo"


@pytest.mark.parametrize("outcome", ["decline", "late_failure"])
async def test_a_refund_that_fails_says_so(bench: Bench, outcome: str) -> None:
    payment = await bench.paid()
    begun, query = await bench.refund(payment, 50_000, outcome)
    assert begun.verdict is Verdict.PROCESSING
    failed = await bench.refund_is(query, Verdict.DECLINED)
    assert failed.failure is not None
    assert (failed.failure.code, failed.raw_status) == ("refund_failed", "failed")
    # Nothing went back, so that it can be refunded again.
    assert (await bench.refund(payment, 50_000))[0].verdict is Verdict.PROCESSING


@pytest.mark.parametrize("outcome", LOST)
async def test_a_refund_whose_answer_was_lost_is_found_among_the_others(bench: Bench, outcome: str) -> None:
    payment, other = await bench.paid(), await bench.paid()
    await bench.refund(other, 10_000)
    _, known = await bench.refund(payment, 10_000)
    lost, query = await bench.refund(payment, 10_000, outcome)
    assert (lost.verdict, query.provider_references) == (Verdict.UNKNOWN, ())
    query = dataclasses.replace(query, taken=known.provider_references)
    found = await bench.refund_is(query, Verdict.COMPLETED)
    assert found.requested == Money(10_000, "NGN")
    assert found.provider_references not in ((), known.provider_references)


async def test_a_lost_refund_is_found_on_the_second_page(bench: Bench) -> None:
    payment = await bench.paid()
    _, query = await bench.refund(payment, 10_000, "server_error_after_charging")
    for _ in range(11):
        await bench.refund(payment, 100)
    assert (await bench.refund_is(query, Verdict.COMPLETED)).requested == Money(10_000, "NGN")


async def test_a_refund_that_nobody_knows_stays_unknown(bench: Bench) -> None:
    payment = await bench.paid()
    refused, query = await bench.refund(payment, 10_000, "server_error")
    assert refused.verdict is Verdict.UNKNOWN
    assert (await bench.adapter.fetch_refund(query, bench.credentials)).verdict is Verdict.UNKNOWN
    limited, _ = await bench.refund(payment, 10_000, "rate_limited")
    assert limited.verdict is Verdict.REFUSED


# Transfers


async def test_a_transfer_is_queued_and_arrives(bench: Bench) -> None:
    queued, query = await bench.pay_out()
    assert (queued.verdict, queued.raw_status) == (Verdict.PROCESSING, "NEW")
    arrived = await bench.payout_is(query, Verdict.COMPLETED)
    assert (arrived.requested, arrived.reference) == (NGN, query.reference)
    (event,) = await bench.told(Operation.PAYOUT, 1)
    assert (event.references, event.provider_references) == ((query.reference,), query.provider_references)
    assert (event.result and event.result.verdict) is Verdict.COMPLETED


async def test_a_transfer_without_balance_is_queued_and_fails(bench: Bench) -> None:
    queued, query = await bench.pay_out("decline")
    assert queued.verdict is Verdict.PROCESSING
    failed = await bench.payout_is(query, Verdict.DECLINED)
    assert (failed.failure and failed.failure.code) == "provider_balance"
    (event,) = await bench.told(Operation.PAYOUT, 1)
    assert (event.result and event.result.verdict) is Verdict.DECLINED


@pytest.mark.parametrize("outcome", LOST)
async def test_a_transfer_whose_answer_was_lost_is_found_by_our_reference(bench: Bench, outcome: str) -> None:
    lost, query = await bench.pay_out(outcome)
    assert (lost.verdict, query.provider_references) == (Verdict.UNKNOWN, ())
    found = await bench.payout_is(query, Verdict.COMPLETED)
    assert (found.requested, len(found.provider_references)) == (NGN, 1)
    assert [row["result"] for row in await bench.submissions(query.reference)] == ["charged"]


async def test_a_transfer_sent_twice_is_unknown_and_sent_once(bench: Bench) -> None:
    _, query = await bench.pay_out()
    again, _ = await bench.pay_out(reference=query.reference)
    assert (again.verdict, again.raw_status) == (Verdict.UNKNOWN, "400 Transfer with reference already exists")
    assert [row["result"] for row in await bench.submissions(query.reference)] == ["charged", "duplicate"]


async def test_a_transfer_that_nobody_knows_stays_unknown(bench: Bench) -> None:
    _, query = await bench.pay_out("server_error")
    assert (await bench.adapter.fetch_payout(query, bench.credentials)).verdict is Verdict.UNKNOWN


async def test_a_transfer_waits_for_approval_in_the_dashboard(bench: Bench) -> None:
    waiting, query = await bench.pay_out("needs_otp")
    assert (waiting.verdict, waiting.next_action) == (Verdict.REQUIRES_ACTION, None)
    assert (await bench.payout_is(query, Verdict.COMPLETED)).requested == NGN


async def test_a_transfer_that_comes_back_is_a_failure_after_a_success(bench: Bench) -> None:
    _, query = await bench.pay_out("late_failure")
    assert (await bench.payout_is(query, Verdict.DECLINED)).failure is not None
    told = [event.result.verdict for event in await bench.told(Operation.PAYOUT, 2) if event.result]
    assert told == [Verdict.COMPLETED, Verdict.DECLINED]


async def test_a_shunned_account_is_refused_and_nothing_is_sent(bench: Bench) -> None:
    shunned = Destination(DestinationType.BANK_ACCOUNT, bank_code="044", account_number="0690000036")
    refused, query = await bench.pay_out(destination=shunned)
    assert (refused.verdict, refused.failure and refused.failure.code) == (Verdict.REFUSED, "destination_not_allowed")
    assert (await bench.adapter.fetch_payout(query, bench.credentials)).verdict is Verdict.UNKNOWN


async def test_a_wallet_is_paid_by_its_phone(bench: Bench) -> None:
    wallet = Destination(DestinationType.MOBILE_MONEY, account_name="Wanjiru", phone="+254712345678")
    _, query = await bench.pay_out(amount=Money(50_000, "KES"), destination=wallet)
    assert (await bench.payout_is(query, Verdict.COMPLETED)).requested == Money(50_000, "KES")


# Banks, and v4's signature


async def test_banks_and_the_holder_of_an_account(bench: Bench) -> None:
    assert Bank("058", "GTBank Plc", "NGN") in await bench.adapter.banks("NGN", bench.credentials)
    kenyan = {bank.code: bank.type for bank in await bench.adapter.banks("KES", bench.credentials)}
    assert kenyan == {"01": DestinationType.BANK_ACCOUNT, "MPS": DestinationType.MOBILE_MONEY}
    holder = await bench.adapter.resolve_account(ACCOUNT_TO_PAY, bench.credentials)
    assert holder.name == "Alexis Sanchez"
    nobody = dataclasses.replace(ACCOUNT_TO_PAY, account_number="0000000000")
    with pytest.raises(LookupFailed) as failed:
        await bench.adapter.resolve_account(nobody, bench.credentials)
    assert (failed.value.failure and failed.value.failure.code) == "account_not_found"


async def test_webhooks_signed_as_in_v4_are_proven_by_their_own_header_alone(bench: Bench) -> None:
    await bench.control("POST", "/settings", flutterwave_sign_webhooks=True)
    _, query = await bench.pay_out()
    await bench.payout_is(query, Verdict.COMPLETED)
    async with asyncio.timeout(30):
        while not bench.webhooks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    signing = bench.credentials.model_copy(update={"webhook_header": "flutterwave-signature"})
    (event,) = bench.events(Operation.PAYOUT, signing)
    assert event.references == (query.reference,)
    with pytest.raises(WebhookRefused, match="header_missing"):
        bench.events(Operation.PAYOUT)
    altered = dataclasses.replace(bench.webhooks[0], body=bench.webhooks[0].body + b" ")
    with pytest.raises(WebhookRefused, match="signature_mismatch"):
        bench.adapter.verify_webhook(altered, [signing])
