"""M-Pesa's payouts, reversals and C2B over real HTTP against the simulator, whose results come to the URLs of each order."""

import asyncio
import dataclasses
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import SecretStr

from payflow.core.money import Money
from payflow.gateway.contract import (
    Destination,
    DestinationType,
    Operation,
    ProviderEvent,
    Query,
    RefundQuery,
    Result,
    Verdict,
    WebhookRequest,
)
from payflow.gateway.http import ProviderHttp, build_http
from payflow.providers.mpesa import Mpesa, MpesaCredentials
from payflow.simulator import SimulatorSettings, create_simulator
from tests.providers.contract_suite import NOW, a_query, an_order
from tests.providers.test_provider_mpesa import a_certificate, private_key
from tests.providers.test_providers_over_http import Server, until
from tests.providers.verbs_suite import a_payout, a_refund, a_refund_query

PASSWORD = "Simulator#1"
KES = Money(50_000, "KES")
TO_PHONE = Destination(DestinationType.MOBILE_MONEY, phone="+254712345678")
ADDRESS = "http://merchant.test/api/v1/webhooks/lipa"
UNSURE = [
    "timeout_after_charging",
    "server_error_after_charging",
    "dropped_after_charging",
    "server_error",
    "html_error",
]
numbers = itertools.count(1)


class Bench:
    """A simulator that can read the SecurityCredential, the adapter, and what came to which URL."""

    def __init__(self, settings: SimulatorSettings, client: httpx.AsyncClient, http: ProviderHttp) -> None:
        self.url, self.client = settings.base_url, client
        self.webhooks: list[tuple[str, WebhookRequest]] = []
        self.accept = True
        self.adapter = Mpesa(http, f"{self.url}/mpesa", lambda: datetime.now(UTC))
        self.credentials = MpesaCredentials(
            consumer_key=SecretStr(settings.mpesa_consumer_key),
            consumer_secret=SecretStr(settings.mpesa_consumer_secret),
            passkey=SecretStr(settings.mpesa_passkey),
            shortcode=settings.mpesa_shortcode,
            initiator_name=settings.mpesa_initiator_name,
            initiator_password=SecretStr(PASSWORD),
            certificate=a_certificate(private_key()),
        )

    async def receive(self, request: httpx.Request) -> httpx.Response:
        """As intake will: a validation at its own URL is answered, all else is kept."""
        webhook = WebhookRequest({}, await request.aread(), datetime.now(UTC))
        self.webhooks.append((str(request.url), webhook))
        if str(request.url) == f"{ADDRESS}/validate" and self.adapter.read_validation(webhook) is not None:
            return httpx.Response(200, content=self.adapter.answer_validation(webhook, self.accept))
        return httpx.Response(200, content=Mpesa.declaration.webhook_answer)

    async def control(self, method: str, path: str, **body: Any) -> Any:
        response = await self.client.request(method, f"{self.url}/_control{path}", json=body or None)
        assert response.is_success, response.text
        return response.json()

    async def choose(self, operation: str, outcome: str) -> None:
        await self.control("POST", "/outcomes", provider="mpesa", outcome=outcome, operation=operation, times=1)

    def events(self, url: str) -> list[ProviderEvent]:
        found = [self.adapter.translate(webhook) for address, webhook in self.webhooks if address == url]
        return [event for events in found for event in events]

    async def results(self, url: str, fits: Callable[[Sequence[ProviderEvent]], bool] = bool) -> list[ProviderEvent]:
        async def ask() -> list[ProviderEvent]:
            return self.events(url)

        found: list[ProviderEvent] = await until(ask, fits)
        return found

    async def pay_out(self, outcome: str, **changes: Any) -> tuple[Query, Result]:
        await self.choose("payout", outcome)
        reference = f"att{next(numbers):026d}"
        order = a_payout(KES, TO_PHONE, reference=reference, callback_url=f"{ADDRESS}/{reference}")
        order = dataclasses.replace(order, **changes)
        self.adapter.check_payout(order)
        result = await self.adapter.pay_out(order, self.credentials)
        query = Query(
            Operation.PAYOUT,
            order.reference,
            result.provider_references,
            order.amount,
            NOW,
            callback_url=order.callback_url,
        )
        return query, result

    async def collected(self) -> tuple[Query, str]:
        """A paid prompt and its receipt."""
        reference = f"att{next(numbers):026d}"
        url = f"{ADDRESS}/{reference}"
        order = an_order(KES, reference=reference, callback_url=url)
        result = await self.adapter.collect(order, self.credentials)
        (event,) = await self.results(url)
        assert event.result is not None
        return dataclasses.replace(a_query(KES, *result.provider_references), reference=reference), str(
            event.result.receipt
        )

    async def refund(self, outcome: str, payment: Query, receipt: str) -> tuple[RefundQuery, Result]:
        await self.choose("refund", outcome)
        reference = f"att{next(numbers):026d}"
        order = a_refund(KES, payment, receipt=receipt, reference=reference, callback_url=f"{ADDRESS}/{reference}")
        self.adapter.check_refund(order)
        result = await self.adapter.refund(order, self.credentials)
        query = a_refund_query(
            KES, payment, *result.provider_references, reference=reference, callback_url=order.callback_url
        )
        return query, result

    async def charges(self, reference: str) -> Any:
        listed = await self.control("GET", f"/charges?provider=mpesa&reference={reference}")
        return listed["charges"]

    async def pay_alone(self, account: str) -> None:
        token = await self.client.get(
            f"{self.url}/mpesa/oauth/v1/generate?grant_type=client_credentials",
            auth=("simulator_consumer_key", "simulator_consumer_secret"),
        )
        body = {
            "ShortCode": "174379",
            "CommandID": "CustomerPayBillOnline",
            "Amount": 5,
            "Msisdn": 254708374149,
            "BillRefNumber": account,
        }
        answer = await self.client.post(
            f"{self.url}/mpesa/mpesa/c2b/v2/simulate",
            json=body,
            headers={"authorization": f"Bearer {token.json()['access_token']}"},
        )
        assert answer.json()["ResponseCode"] == "0"


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Bench]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    bench: Bench

    async def receive(request: httpx.Request) -> httpx.Response:
        return await bench.receive(request)

    pem = private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    settings = SimulatorSettings(
        port=listener.getsockname()[1],
        customer_delay_seconds=0.02,
        mpesa_private_key=pem,
        mpesa_initiator_password=PASSWORD,
    )
    app = create_simulator(settings, transport=httpx.MockTransport(receive))
    server = Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="on"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    async with (
        build_http(timeout_seconds=0.5, connect_timeout_seconds=1, connections=20) as http,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        bench = Bench(settings, client, http)
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
    running.accept = True
    return running


def told(event: ProviderEvent) -> tuple[Operation, Verdict | None, str | None]:
    result = event.result
    return event.operation, result and result.verdict, (result.failure.code if result and result.failure else None)


# Payouts


async def test_a_payout_is_acknowledged_and_its_result_comes_to_its_own_url(bench: Bench) -> None:
    query, ordered = await bench.pay_out("success")
    assert (ordered.verdict, ordered.provider_references[0]) == (Verdict.PROCESSING, query.reference)
    (event,) = await bench.results(query.callback_url or "")
    assert told(event) == (Operation.PAYOUT, Verdict.COMPLETED, None)
    assert event.result is not None
    assert (event.references, event.result.requested) == ((query.reference,), KES)
    assert event.provider_references == ordered.provider_references
    assert len(event.result.receipt or "") == 10


@pytest.mark.parametrize("outcome", ["decline", "insufficient_funds"])
async def test_a_payout_that_fails_says_why_and_moves_nothing(bench: Bench, outcome: str) -> None:
    query, _ = await bench.pay_out("silent" if outcome == "insufficient_funds" else outcome)
    if outcome == "insufficient_funds":
        await bench.control("POST", f"/charges/mpesa/{query.reference}/insufficient_funds")
    (event,) = await bench.results(query.callback_url or "")
    failure = "invalid_recipient" if outcome == "decline" else "insufficient_funds"
    assert told(event) == (Operation.PAYOUT, Verdict.DECLINED, failure)
    (charge,) = await bench.charges(query.reference)
    assert (charge["money_taken_minor"], charge["status"]) == (0, "failed")


@pytest.mark.parametrize("outcome", ["refuse", "rate_limited"])
async def test_a_refused_payout_was_never_made(bench: Bench, outcome: str) -> None:
    query, ordered = await bench.pay_out(outcome)
    assert ordered.verdict is Verdict.REFUSED
    assert (await bench.charges(query.reference))[0]["charges"] == 0


@pytest.mark.parametrize("outcome", UNSURE)
async def test_a_payout_without_a_readable_answer_is_unknown_and_sent_once(bench: Bench, outcome: str) -> None:
    query, ordered = await bench.pay_out(outcome)
    assert (ordered.verdict, ordered.failure) == (Verdict.UNKNOWN, None)
    (charge,) = await bench.charges(query.reference)
    assert (charge["submissions"], charge["charges"]) == (1, int("after_charging" in outcome))


async def test_a_payout_whose_answer_was_lost_is_asked_about_by_our_reference(bench: Bench) -> None:
    query, ordered = await bench.pay_out("dropped_after_charging")
    assert ordered.provider_references == ()
    await bench.results(query.callback_url or "")
    bench.webhooks.clear()
    assert (await bench.adapter.fetch_payout(query, bench.credentials)).verdict is Verdict.ASKED
    (event,) = await bench.results(query.callback_url or "")
    assert (event.type, told(event)) == ("transaction_status", (Operation.PAYOUT, Verdict.COMPLETED, None))
    assert event.result is not None
    assert (event.result.requested, event.references) == (KES, (query.reference,))


async def test_a_payout_under_way_is_asked_about_and_said_to_be_so(bench: Bench) -> None:
    query, _ = await bench.pay_out("silent")
    assert (await bench.adapter.fetch_payout(query, bench.credentials)).verdict is Verdict.ASKED
    (event,) = await bench.results(query.callback_url or "")
    assert told(event) == (Operation.PAYOUT, Verdict.PROCESSING, None)


async def test_a_payout_that_daraja_never_had_moves_nothing_when_asked_about(bench: Bench) -> None:
    query, _ = await bench.pay_out("server_error")
    assert (await bench.adapter.fetch_payout(query, bench.credentials)).verdict is Verdict.ASKED
    (event,) = await bench.results(query.callback_url or "")
    assert event.result is None


async def test_a_question_that_fails_says_nothing(bench: Bench) -> None:
    await bench.control("POST", "/settings", answer_queries=False)
    query, _ = await bench.pay_out("silent")
    assert (await bench.adapter.fetch_payout(query, bench.credentials)).verdict is Verdict.UNKNOWN


async def test_the_queues_timeout_is_unknown_and_a_later_result_still_counts(bench: Bench) -> None:
    query, _ = await bench.pay_out("silent")
    await bench.control("POST", f"/charges/mpesa/{query.reference}/timeout")
    (event,) = await bench.results(f"{query.callback_url}0")
    assert told(event) == (Operation.PAYOUT, Verdict.UNKNOWN, None)
    await bench.control("POST", f"/charges/mpesa/{query.reference}/pay")
    (event,) = bench.events(query.callback_url or "")
    assert told(event) == (Operation.PAYOUT, Verdict.COMPLETED, None)


async def test_a_reference_used_twice_is_unknown_and_paid_once(bench: Bench) -> None:
    query, _ = await bench.pay_out("success")
    _, again = await bench.pay_out("success", reference=query.reference, callback_url=query.callback_url)
    assert (again.verdict, again.raw_status) == (Verdict.UNKNOWN, "500 500.002.1001")
    await bench.results(query.callback_url or "")
    (charge,) = await bench.charges(query.reference)
    assert (charge["charges"], charge["money_taken_minor"]) == (1, 50_000)


async def test_a_wrong_initiator_password_shows_in_the_result_only(bench: Bench) -> None:
    good, bench.credentials = (
        bench.credentials,
        bench.credentials.model_copy(update={"initiator_password": SecretStr("another")}),
    )
    try:
        query, ordered = await bench.pay_out("success")
    finally:
        bench.credentials = good
    assert ordered.verdict is Verdict.PROCESSING
    (event,) = await bench.results(query.callback_url or "")
    assert told(event) == (Operation.PAYOUT, Verdict.DECLINED, "authentication_failed")


async def test_a_payout_told_three_times_is_the_same_each_time(bench: Bench) -> None:
    query, _ = await bench.pay_out("duplicate")
    events = await bench.results(query.callback_url or "", lambda found: len(found) == 3)
    assert events[0] == events[1] == events[2]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"callback_url": "http://merchant.test/mpesa/abc"}, "configuration_error"),
        ({"destination": Destination(DestinationType.MOBILE_MONEY, phone="0712345678x")}, "invalid_recipient"),
    ],
)
async def test_a_field_that_daraja_refuses_is_a_refusal(bench: Bench, changes: dict[str, Any], field: str) -> None:
    order = a_payout(KES, TO_PHONE, callback_url=f"{ADDRESS}/abc")
    result = await bench.adapter.pay_out(dataclasses.replace(order, **changes), bench.credentials)
    assert (result.verdict, result.failure and result.failure.code) == (Verdict.REFUSED, field)
    assert bench.webhooks == []


async def test_a_token_that_was_ended_is_renewed_though_b2c_says_so_by_401(bench: Bench) -> None:
    await bench.pay_out("success")
    await bench.control("POST", "/reset")
    query, ordered = await bench.pay_out("success")
    assert ordered.verdict is Verdict.PROCESSING
    assert (await bench.charges(query.reference))[0]["charges"] == 1


# Reversals


async def test_a_reversal_gives_back_the_whole_payment(bench: Bench) -> None:
    payment, receipt = await bench.collected()
    query, ordered = await bench.refund("success", payment, receipt)
    assert (ordered.verdict, len(ordered.provider_references)) == (Verdict.PROCESSING, 2)
    (event,) = await bench.results(query.callback_url or "")
    assert told(event) == (Operation.REFUND, Verdict.COMPLETED, None)
    assert event.result is not None
    assert (event.result.requested, event.payment_references) == (KES, (receipt,))
    assert event.provider_references == ordered.provider_references
    assert event.result.receipt != receipt
    (charge,) = await bench.charges(payment.reference[-12:])
    assert (charge["refund_submissions"], charge["refunded_minor"]) == (1, 50_000)


async def test_a_payment_is_reversed_once(bench: Bench) -> None:
    payment, receipt = await bench.collected()
    first, _ = await bench.refund("success", payment, receipt)
    await bench.results(first.callback_url or "")
    second, ordered = await bench.refund("success", payment, receipt)
    assert ordered.verdict is Verdict.PROCESSING
    (event,) = await bench.results(second.callback_url or "")
    assert told(event) == (Operation.REFUND, Verdict.DECLINED, "already_refunded")
    (charge,) = await bench.charges(payment.reference[-12:])
    assert charge["refunded_minor"] == 50_000


@pytest.mark.parametrize(("outcome", "failure"), [("decline", "account_inactive"), ("success", "payment_not_found")])
async def test_a_reversal_that_fails_says_why(bench: Bench, outcome: str, failure: str) -> None:
    payment, receipt = await bench.collected()
    query, _ = await bench.refund(outcome, payment, receipt if outcome == "decline" else "SKE0000000")
    (event,) = await bench.results(query.callback_url or "")
    assert told(event) == (Operation.REFUND, Verdict.DECLINED, failure)
    (charge,) = await bench.charges(payment.reference[-12:])
    assert charge["refunded_minor"] == 0


@pytest.mark.parametrize("outcome", UNSURE)
async def test_a_reversal_without_a_readable_answer_is_unknown_and_cannot_be_asked_about(
    bench: Bench, outcome: str
) -> None:
    payment, receipt = await bench.collected()
    query, ordered = await bench.refund(outcome, payment, receipt)
    assert (ordered.verdict, ordered.failure) == (Verdict.UNKNOWN, None)
    assert (await bench.adapter.fetch_refund(query, bench.credentials)).verdict is Verdict.UNKNOWN
    if "after_charging" in outcome:  # its own URL tells
        (event,) = await bench.results(query.callback_url or "")
        assert told(event) == (Operation.REFUND, Verdict.COMPLETED, None)


@pytest.mark.parametrize(("outcome", "verdict"), [("query_only", Verdict.COMPLETED), ("silent", Verdict.PROCESSING)])
async def test_a_reversal_that_nothing_was_heard_of_is_asked_about(
    bench: Bench, outcome: str, verdict: Verdict
) -> None:
    payment, receipt = await bench.collected()
    query, _ = await bench.refund(outcome, payment, receipt)

    async def ask() -> list[ProviderEvent]:
        assert (await bench.adapter.fetch_refund(query, bench.credentials)).verdict is Verdict.ASKED
        await asyncio.sleep(0.05)
        return bench.events(query.callback_url or "")

    events = await until(ask, lambda found: any(event.result and event.result.verdict is verdict for event in found))
    assert {event.operation for event in events} == {Operation.REFUND}
    assert {event.provider_references for event in events} == {query.provider_references}


async def test_the_queues_timeout_of_a_reversal_is_unknown(bench: Bench) -> None:
    payment, receipt = await bench.collected()
    query, ordered = await bench.refund("silent", payment, receipt)
    await bench.control("POST", f"/charges/mpesa/{ordered.provider_references[0]}/timeout")
    (event,) = await bench.results(f"{query.callback_url}0")
    assert told(event) == (Operation.REFUND, Verdict.UNKNOWN, None)


# Payments a customer starts alone


async def register(bench: Bench, **changes: Any) -> Result:
    return await bench.adapter.register_c2b_urls(
        f"{ADDRESS}/confirm", f"{ADDRESS}/validate", bench.credentials, **changes
    )


async def test_a_payment_nobody_ordered_is_confirmed_with_its_account_and_receipt(bench: Bench) -> None:
    assert (await register(bench)).verdict is Verdict.COMPLETED
    await bench.pay_alone("invoice 17")
    (event,) = await bench.results(f"{ADDRESS}/confirm")
    assert told(event) == (Operation.COLLECT, Verdict.COMPLETED, None)
    assert event.result is not None
    assert (event.type, event.references, event.result.paid) == ("c2b.confirmation", ("invoice 17",), Money(500, "KES"))
    assert event.dedupe_key == f"c2b:{event.result.receipt}"
    assert [url for url, _ in bench.webhooks] == [f"{ADDRESS}/confirm"]


@pytest.mark.parametrize("accept", [True, False])
async def test_a_payment_is_taken_only_if_its_validation_is_accepted(bench: Bench, accept: bool) -> None:
    await bench.control("POST", "/settings", mpesa_external_validation=True)
    await register(bench, when_silent="Cancelled")
    bench.accept = accept
    await bench.pay_alone("invoice 17")

    async def settled() -> list[str]:
        listed = await bench.control("GET", "/webhooks?provider=mpesa")
        return [row["event"] for row in listed["webhooks"] if row["attempts"]]

    expected = ["c2b validation", "c2b confirmation"] if accept else ["c2b validation"]
    assert await until(settled, lambda found: found == expected) == expected
    await asyncio.sleep(0.05)
    assert await settled() == expected
    asked = bench.adapter.read_validation(bench.webhooks[0][1])
    assert asked is not None
    assert (asked.reference, asked.amount) == ("invoice 17", Money(500, "KES"))


async def test_urls_are_registered_once_where_that_is_so(bench: Bench) -> None:
    await bench.control("POST", "/settings", mpesa_register_urls_once=True)
    assert (await register(bench)).verdict is Verdict.COMPLETED
    again = await register(bench)
    assert (again.verdict, again.failure and again.failure.code) == (Verdict.REFUSED, "already_registered")


async def test_a_prompt_that_was_paid_is_confirmed_as_c2b_too_with_the_same_receipt(bench: Bench) -> None:
    await register(bench)
    _, receipt = await bench.collected()
    (event,) = await bench.results(f"{ADDRESS}/confirm")
    assert event.result is not None
    assert event.result.receipt == receipt
