"""Stripe's adapter over real HTTP against the simulator: PaymentIntents, refunds, disputes."""

import dataclasses
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from payflow.core.money import Money
from payflow.gateway.contract import ActionType, Operation, ProviderEvent, RefundOrder, RefundQuery, Result, Verdict
from tests.providers import test_providers_over_http as over_http
from tests.providers.contract_suite import CALLBACK_URL, TRANSACTION_ID
from tests.providers.test_providers_over_http import Attempt, Bench, until

running, bench = over_http.running, over_http.bench

WHOLE, PART = Money(50_000, "USD"), Money(15_000, "USD")
LOST = ["timeout_after_charging", "server_error_after_charging", "dropped_after_charging"]
HEADERS = {"authorization": "Bearer sk_test_simulator_stripe"}
numbers = itertools.count(1)


async def paid(bench: Bench, **changes: Any) -> Attempt:
    """A payment with every id that its answer teaches."""
    attempt = await bench.collect("stripe", "success", **changes)
    result = await attempt.ended()
    assert result.verdict is Verdict.COMPLETED
    attempt.query = dataclasses.replace(attempt.query, provider_references=result.provider_references)
    return attempt


def a_refund_of(attempt: Attempt, amount: Money, **changes: Any) -> RefundOrder:
    order = RefundOrder(
        reference=f"att{next(numbers):025d}",
        transaction_id=TRANSACTION_ID,
        payment=attempt.query,
        amount=amount,
        whole=amount == attempt.query.amount,
        callback_url=CALLBACK_URL,
        reason="Returned goods",
    )
    return dataclasses.replace(order, **changes)


@dataclasses.dataclass
class Refunding:
    attempt: Attempt
    order: RefundOrder
    result: Result

    async def fetch(self, *, age: timedelta = timedelta()) -> Result:
        order, bench = self.order, self.attempt.bench
        ids, created_at = self.result.provider_references, datetime.now(UTC) - age
        query = RefundQuery(order.reference, ids, order.amount, created_at, order.payment)
        result: Result = await bench.adapters["stripe"].fetch_refund(query, bench.credentials["stripe"])
        return result

    async def events(self, kind: str) -> list[ProviderEvent]:
        found: list[ProviderEvent] = await until(lambda: told(self.attempt.bench, kind), bool)
        return found


async def refund(attempt: Attempt, amount: Money, outcome: str = "success", **changes: Any) -> Refunding:
    bench = attempt.bench
    await bench.control("POST", "/outcomes", provider="stripe", outcome=outcome, times=1, operation="refund")
    order = a_refund_of(attempt, amount, **changes)
    adapter = bench.adapters["stripe"]
    adapter.check_refund(order)
    return Refunding(attempt, order, await adapter.refund(order, bench.credentials["stripe"]))


async def told(bench: Bench, kind: str) -> list[ProviderEvent]:
    """The events of this kind, each proven and translated by the adapter."""
    adapter, credentials = bench.adapters["stripe"], bench.credentials["stripe"]
    found = []
    for _, webhook in bench.webhooks:
        adapter.verify_webhook(webhook, [credentials])
        found += adapter.translate(webhook)
    return [event for event in found if event.type == kind]


async def act(attempt: Attempt, action: str) -> None:
    await attempt.bench.control("POST", f"/charges/stripe/{attempt.query.reference}/{action}")


def code(result: Result) -> str | None:
    return result.failure.code if result.failure else None


# Refunds


@pytest.mark.parametrize("method", [None, "payment_intent"])
async def test_a_part_and_then_the_rest_are_given_back(bench: Bench, method: str | None) -> None:
    attempt = await paid(bench, method=method)
    for amount in (PART, Money(35_000, "USD")):
        refunding = await refund(attempt, amount)
        assert (refunding.result.verdict, refunding.result.requested) == (Verdict.COMPLETED, amount)
        assert refunding.result.reference == refunding.order.reference
        assert (await refunding.fetch()) == refunding.result
    charges = await attempt.charges()
    assert (charges["refunded_minor"], charges["refund_submissions"]) == (50_000, 2)


async def test_the_whole_is_given_back_once(bench: Bench) -> None:
    attempt = await paid(bench)
    assert (await refund(attempt, WHOLE)).result.verdict is Verdict.COMPLETED
    again = (await refund(attempt, WHOLE)).result
    assert (again.verdict, code(again)) == (Verdict.REFUSED, "already_refunded")
    assert (await attempt.charges())["refunded_minor"] == 50_000


async def test_more_than_is_left_is_refused_and_nothing_is_given_back(bench: Bench) -> None:
    attempt = await paid(bench)
    await refund(attempt, PART)
    over = (await refund(attempt, WHOLE)).result
    assert (over.verdict, code(over)) == (Verdict.REFUSED, "amount_exceeds_payment")
    assert (await attempt.charges())["refunded_minor"] == 15_000


async def test_an_order_repeated_with_its_reference_gives_back_once(bench: Bench) -> None:
    attempt = await paid(bench)
    first = await refund(attempt, PART)
    adapter, credentials = bench.adapters["stripe"], bench.credentials["stripe"]
    assert await adapter.refund(first.order, credentials) == first.result
    assert (await attempt.charges())["refunded_minor"] == 15_000


async def test_a_refund_is_told_by_its_events_and_found_by_our_reference(bench: Bench) -> None:
    attempt = await paid(bench)
    refunding = await refund(attempt, PART)
    (event,) = await refunding.events("refund.created")
    assert (event.operation, event.references) == (Operation.REFUND, (refunding.order.reference,))
    assert event.provider_references == refunding.result.provider_references
    assert set(event.payment_references) <= set(attempt.query.provider_references)
    assert event.result == refunding.result
    (news,) = await refunding.events("charge.refunded")
    assert (news.result, news.references, attempt.query.reference in news.payment_references) == (None, (), True)


async def test_a_refund_that_is_pending_settles_later(bench: Bench) -> None:
    refunding = await refund(await paid(bench), PART, "silent")
    assert refunding.result.verdict is (await refunding.fetch()).verdict is Verdict.PROCESSING
    await act(refunding.attempt, "refund_settle")
    assert (await refunding.fetch()).verdict is Verdict.COMPLETED
    (event,) = await refunding.events("refund.updated")
    (legacy,) = await refunding.events("charge.refund.updated")
    assert event.result == legacy.result == await refunding.fetch()
    assert event.dedupe_key != legacy.dedupe_key


@pytest.mark.parametrize("outcome", ["decline", "late_failure"])
async def test_a_refund_that_had_succeeded_may_fail_after_all(bench: Bench, outcome: str) -> None:
    refunding = await refund(await paid(bench), PART, outcome)
    assert refunding.result.verdict is Verdict.COMPLETED
    failed: Result = await until(refunding.fetch, lambda result: result.verdict is not Verdict.COMPLETED)
    assert (failed.verdict, code(failed)) == (Verdict.DECLINED, "refund_failed")
    (event,) = await refunding.events("refund.failed")
    assert event.result == failed
    assert (await refunding.attempt.charges())["refunded_minor"] == 0


async def test_a_refund_that_waits_for_somebody_can_be_cancelled(bench: Bench) -> None:
    refunding = await refund(await paid(bench), PART, "silent")
    await act(refunding.attempt, "refund_needs_attention")
    assert (await refunding.fetch()).verdict is Verdict.REQUIRES_ACTION
    path = f"{bench.url}/stripe/v1/refunds/{refunding.result.provider_references[0]}/cancel"
    assert (await bench.client.post(path, headers=HEADERS)).status_code == 200
    assert (await bench.client.post(path, headers=HEADERS)).status_code == 400
    cancelled = await refunding.fetch()
    assert (cancelled.verdict, code(cancelled)) == (Verdict.DECLINED, "refund_cancelled")


@pytest.mark.parametrize("outcome", LOST)
async def test_a_refund_whose_answer_was_lost_is_found_by_its_metadata(bench: Bench, outcome: str) -> None:
    attempt = await paid(bench)
    other = await refund(attempt, PART)  # of the same amount
    lost = await refund(attempt, PART, outcome)
    assert (lost.result.verdict, lost.result.provider_references) == (Verdict.UNKNOWN, ())
    found = await lost.fetch()
    assert (found.verdict, found.reference, found.requested) == (Verdict.COMPLETED, lost.order.reference, PART)
    assert found.provider_references != other.result.provider_references
    assert (await attempt.charges())["refund_submissions"] == 2


async def test_a_refund_that_never_arrived_is_only_later_known_as_such(bench: Bench) -> None:
    attempt = await paid(bench)
    await bench.client.post(
        f"{bench.url}/stripe/v1/refunds",
        data={"payment_intent": attempt.query.provider_references[1], "amount": "15000"},
        headers=HEADERS,
    )  # on the dashboard, of the same amount
    lost = await refund(attempt, PART, "server_error")
    assert lost.result.verdict is Verdict.UNKNOWN
    assert (await lost.fetch()).verdict is Verdict.UNKNOWN
    assert (await lost.fetch(age=timedelta(hours=1))).verdict is Verdict.NOT_FOUND
    (event,) = await lost.events("refund.created")
    assert (event.references, event.payment_references[0]) == ((), attempt.query.provider_references[1])


@pytest.mark.parametrize(("outcome", "failure"), [("refuse", "amount_not_accepted"), ("rate_limited", "rate_limited")])
async def test_a_refund_that_is_refused_did_not_happen(bench: Bench, outcome: str, failure: str) -> None:
    refunding = await refund(await paid(bench), PART, outcome)
    assert (refunding.result.verdict, code(refunding.result)) == (Verdict.REFUSED, failure)
    assert (await refunding.attempt.charges())["refunded_minor"] == 0


# PaymentIntents


async def test_an_sdk_pays_with_the_secret_it_is_given(bench: Bench) -> None:
    attempt = await bench.collect("stripe", "success", method="payment_intent", return_url=None)
    action = attempt.collected.next_action
    assert action is not None
    assert (action.type, action.url, attempt.collected.checkout_url) == (ActionType.SDK, None, None)
    (intent_id,) = attempt.query.provider_references
    assert action.fields["client_secret"].startswith(f"{intent_id}_secret_")
    paid = await attempt.ended()
    assert (paid.verdict, paid.requested, paid.paid) == (Verdict.COMPLETED, WHOLE, WHOLE)
    told = [event for event in await attempt.events(2) if event.type == "payment_intent.succeeded"]
    assert [event.result for event in told] == [paid]
    assert (await attempt.charges())["charges"] == 1


async def test_a_decline_leaves_the_payment_intent_open_for_another_card(bench: Bench) -> None:
    attempt = await bench.collect("stripe", "silent", method="payment_intent")
    await act(attempt, "insufficient_funds")
    declined = await attempt.fetch()
    assert (declined.verdict, code(declined)) == (Verdict.DECLINED, "insufficient_funds")
    assert (declined.session_open, declined.expirable) == (True, False)
    await act(attempt, "pay")
    assert (await attempt.fetch()).verdict is Verdict.COMPLETED


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        ("asynchronous", Verdict.COMPLETED),
        ("asynchronous_failure", Verdict.DECLINED),
        ("cancelled", Verdict.CANCELLED),
        ("expired", Verdict.EXPIRED),
    ],
)
async def test_a_payment_intent_ends_as_it_ends(bench: Bench, outcome: str, verdict: Verdict) -> None:
    attempt = await bench.collect("stripe", outcome, method="payment_intent")
    assert (await attempt.ended()).verdict is verdict


async def test_a_cancelled_payment_intent_can_no_longer_be_paid(bench: Bench) -> None:
    attempt = await bench.collect("stripe", "silent", method="payment_intent")
    adapter, credentials = bench.adapters["stripe"], bench.credentials["stripe"]
    for _ in range(2):
        result = await adapter.cancel(attempt.query, credentials)
        assert (result.verdict, result.expirable, result.reference) == (
            Verdict.CANCELLED,
            True,
            attempt.query.reference,
        )
    path = f"{bench.url}/_control/charges/stripe/{attempt.query.reference}/pay"
    assert (await bench.client.post(path)).status_code == 409


async def test_a_payment_intent_that_was_paid_is_not_cancelled(bench: Bench) -> None:
    attempt = await paid(bench, method="payment_intent")
    result = await bench.adapters["stripe"].cancel(attempt.query, bench.credentials["stripe"])
    assert (result.verdict, result.paid) == (Verdict.COMPLETED, WHOLE)


async def test_the_payment_intent_of_a_page_is_not_cancelled_behind_its_back(bench: Bench) -> None:
    attempt = await bench.collect("stripe", "decline")
    (decline,) = await attempt.results()
    by_intent = dataclasses.replace(attempt.query, provider_references=decline.provider_references)
    result = await bench.adapters["stripe"].cancel(by_intent, bench.credentials["stripe"])
    assert (result.verdict, result.expirable) == (Verdict.UNKNOWN, False)
    assert (await attempt.fetch()).verdict is Verdict.REQUIRES_ACTION


@pytest.mark.parametrize("outcome", LOST)
async def test_the_event_of_its_creation_teaches_a_lost_payment_intent(bench: Bench, outcome: str) -> None:
    await bench.control("POST", "/settings", automatic_customer=False)
    attempt = await bench.collect("stripe", outcome, method="payment_intent")
    assert (attempt.collected.verdict, attempt.query.provider_references) == (Verdict.UNKNOWN, ())
    (created,) = await attempt.events()
    assert created.result is not None
    assert (created.result.verdict, created.references) == (Verdict.ASKED, (attempt.query.reference,))
    attempt.query = dataclasses.replace(attempt.query, provider_references=created.result.provider_references)
    result = await attempt.fetch()
    assert result.verdict is Verdict.REQUIRES_ACTION
    assert result.next_action is not None
    assert result.next_action.fields["client_secret"]


# Disputes


async def dispute_events(attempt: Attempt, kind: str) -> list[ProviderEvent]:
    found = await told(attempt.bench, f"charge.dispute.{kind}")
    for event in found:
        assert event.operation is Operation.COLLECT
        assert set(event.provider_references) & set(attempt.query.provider_references)
    return found


async def test_a_dispute_is_told_of_the_payment_and_then_won(bench: Bench) -> None:
    attempt = await paid(bench)
    await act(attempt, "dispute")
    (created,) = await dispute_events(attempt, "created")
    assert created.result is not None
    assert (created.result.verdict, created.result.requested) == (Verdict.DISPUTED, WHOLE)
    (withdrawn,) = await dispute_events(attempt, "funds_withdrawn")
    assert withdrawn.result is None
    refused = (await refund(attempt, PART)).result
    assert (refused.verdict, code(refused)) == (Verdict.REFUSED, "payment_disputed")
    await act(attempt, "dispute_win")
    (closed,) = await dispute_events(attempt, "closed")
    assert closed.result is not None
    assert closed.result.verdict is Verdict.DISPUTE_WON
    assert (await attempt.charges())["money_taken_minor"] == 50_000


@pytest.mark.parametrize(("action", "amount"), [("dispute", WHOLE), ("dispute_part", Money(12_500, "USD"))])
async def test_a_lost_dispute_says_how_much_it_takes_back(bench: Bench, action: str, amount: Money) -> None:
    attempt = await paid(bench, method="payment_intent")
    await act(attempt, action)
    await act(attempt, "dispute_lose")
    (closed,) = await dispute_events(attempt, "closed")
    assert closed.result is not None
    assert (closed.result.verdict, closed.result.requested) == (Verdict.REVERSED, amount)
    assert (await attempt.charges())["money_taken_minor"] == 50_000 - amount.minor


async def test_an_inquiry_is_news_until_it_becomes_a_dispute(bench: Bench) -> None:
    attempt = await paid(bench)
    await act(attempt, "dispute_inquiry")
    (created,) = await dispute_events(attempt, "created")
    assert created.result is None
    await act(attempt, "dispute_escalate")
    (updated,) = await dispute_events(attempt, "updated")
    assert updated.result is not None
    assert updated.result.verdict is Verdict.DISPUTED


async def test_an_inquiry_that_ends_moves_nothing(bench: Bench) -> None:
    attempt = await paid(bench)
    await act(attempt, "dispute_inquiry")
    await act(attempt, "dispute_close")
    (closed,) = await dispute_events(attempt, "closed")
    assert closed.result is None
    assert (await attempt.charges())["money_taken_minor"] == 50_000


async def test_wrong_keys_refuse_a_refund(bench: Bench) -> None:
    attempt = await paid(bench)
    adapter, credentials = bench.adapters["stripe"], bench.credentials["stripe"]
    wrong = credentials.model_copy(update={"secret_key": type(credentials.secret_key)("sk_test_another")})
    result = await adapter.refund(a_refund_of(attempt, PART), wrong)
    assert (result.verdict, code(result)) == (Verdict.REFUSED, "authentication_failed")
