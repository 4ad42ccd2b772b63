"""Paystack's adapter against the simulator beyond hosted payments: refunds, direct charges, disputes, transfers, lookups."""

import asyncio
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from payflow.core.money import Money
from payflow.gateway.contract import (
    AccountHolder,
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
    Trust,
    Verdict,
)
from tests.providers import test_providers_over_http as over_http
from tests.providers.test_providers_over_http import Attempt, Bench, until
from tests.providers.verbs_suite import a_payout, a_payout_query, a_refund, a_refund_query

bench, running = over_http.bench, over_http.running

NGN = Money(50_000, "NGN")
BANK = PaymentDetails(bank_code="057", account_number=SecretStr("0000000000"))
ACCOUNT = Destination(DestinationType.BANK_ACCOUNT, "Ada Obi", "057", "0000000000")
PHONE = Destination(DestinationType.MOBILE_MONEY, "Ama Mensah", "MTN", phone="+233551234987")
numbers = itertools.count(1)


def named() -> str:
    return f"att{next(numbers):026d}"


async def asked(bench: Bench, verb: str, *arguments: Any) -> Any:
    return await getattr(bench.adapters["paystack"], verb)(*arguments, bench.credentials["paystack"])


async def told(bench: Bench, kind: str) -> list[ProviderEvent]:
    """Every event of that kind so far, each proven."""
    adapter, credentials = bench.adapters["paystack"], bench.credentials["paystack"]
    found: list[ProviderEvent] = []
    for _, webhook in bench.webhooks:
        adapter.verify_webhook(webhook, [credentials])
        found += adapter.translate(webhook)
    return [event for event in found if event.type == kind]


async def the_event(bench: Bench, kind: str) -> ProviderEvent:
    found: list[ProviderEvent] = await until(lambda: told(bench, kind), bool)
    return found[0]


# Refunds


@dataclasses.dataclass
class Refund:
    bench: Bench
    order: RefundOrder
    answer: Result

    def query(self, *taken: str) -> RefundQuery:
        order = self.order
        query = a_refund_query(order.amount, order.payment, *self.answer.provider_references, taken=taken)
        return dataclasses.replace(query, reference=order.reference)

    async def fetch(self) -> Result:
        result: Result = await asked(self.bench, "fetch_refund", self.query())
        return result

    async def ended(self, *verdicts: Verdict) -> Result:
        wanted = verdicts or (Verdict.COMPLETED, Verdict.DECLINED)
        result: Result = await until(self.fetch, lambda result: result.verdict in wanted)
        return result


async def paid(bench: Bench) -> Attempt:
    """A payment whose provider id is known, as it is once it completed."""
    attempt = await bench.collect("paystack", "success", amount=NGN)
    completed = await attempt.ended()
    assert completed.verdict is Verdict.COMPLETED
    attempt.query = dataclasses.replace(attempt.query, provider_references=completed.provider_references)
    return attempt


async def refunded(bench: Bench, payment: Query, minor: int, outcome: str = "success") -> Refund:
    await bench.control("POST", "/outcomes", provider="paystack", operation="refund", outcome=outcome, times=1)
    order = dataclasses.replace(a_refund(Money(minor, "NGN"), payment), reference=named())
    return Refund(bench, order, await asked(bench, "refund", order))


async def rows(bench: Bench, payment: Query) -> int:
    found = await asked(bench, "_refunds_of", payment)
    return len(found)


async def test_a_part_is_refunded_and_the_payment_stays_paid(bench: Bench) -> None:
    payment = await paid(bench)
    refund = await refunded(bench, payment.query, 20_000)
    assert (refund.answer.verdict, refund.answer.requested) == (Verdict.PROCESSING, Money(20_000, "NGN"))
    assert refund.answer.reference == refund.order.reference
    ended = await refund.ended()
    assert (ended.verdict, ended.requested) == (Verdict.COMPLETED, Money(20_000, "NGN"))
    assert ended.provider_references == refund.answer.provider_references
    assert (await payment.fetch()).verdict is Verdict.COMPLETED
    assert (await payment.charges())["refunded_minor"] == 20_000


async def test_the_whole_is_refunded_and_the_payment_is_not_called_reversed(bench: Bench) -> None:
    payment = await paid(bench)
    refund = await refunded(bench, payment.query, 50_000)
    assert (await refund.ended()).verdict is Verdict.COMPLETED
    asked_again = await payment.fetch()
    assert (asked_again.verdict, asked_again.raw_status) == (Verdict.COMPLETED, "reversed")
    again = await refunded(bench, payment.query, 1)
    assert (again.answer.verdict, again.answer.failure and again.answer.failure.code) == (
        Verdict.REFUSED,
        "already_refunded",
    )
    assert await rows(bench, payment.query) == 1


async def test_more_than_the_remainder_is_refused_and_nothing_is_opened(bench: Bench) -> None:
    payment = await paid(bench)
    await refunded(bench, payment.query, 40_000)
    second = await refunded(bench, payment.query, 10_001)
    assert (second.answer.verdict, second.answer.provider_references) == (Verdict.REFUSED, ())
    assert await rows(bench, payment.query) == 1


@pytest.mark.parametrize(
    ("outcome", "verdict"), [("decline", Verdict.DECLINED), ("needs_attention", Verdict.REQUIRES_ACTION)]
)
async def test_a_refund_that_goes_wrong_says_how(bench: Bench, outcome: str, verdict: Verdict) -> None:
    payment = await paid(bench)
    refund = await refunded(bench, payment.query, 20_000, outcome)
    assert (await refund.ended(verdict)).verdict is verdict
    assert (await payment.charges())["refunded_minor"] == 0


async def test_a_refund_that_fails_late_is_declined_and_may_be_tried_again(bench: Bench) -> None:
    payment = await paid(bench)
    refund = await refunded(bench, payment.query, 50_000)
    await refund.ended(Verdict.COMPLETED)
    await bench.control("POST", f"/charges/paystack/{payment.query.reference}/refund_fail")
    late = await refund.fetch()
    assert (late.verdict, late.failure and late.failure.code) == (Verdict.DECLINED, "refund_failed")
    assert (await payment.fetch()).raw_status == "success"
    assert (await refunded(bench, payment.query, 50_000)).answer.verdict is Verdict.PROCESSING


async def test_a_late_failure_is_told_after_the_success(bench: Bench) -> None:
    payment = await paid(bench)
    await refunded(bench, payment.query, 20_000, "late_failure")
    event = await the_event(bench, "refund.failed")
    assert len(await told(bench, "refund.processed")) == 1
    assert event.result is not None
    assert event.result.verdict is Verdict.DECLINED


async def test_a_refund_event_is_a_hint_that_names_the_payment(bench: Bench) -> None:
    payment = await paid(bench)
    await refunded(bench, payment.query, 20_000)
    for kind, verdict in (("refund.pending", Verdict.PROCESSING), ("refund.processed", Verdict.COMPLETED)):
        event = await the_event(bench, kind)
        assert (event.trust, event.operation, event.dedupe_key) == (Trust.CONFIRM, Operation.REFUND, None)
        assert event.payment_references == (payment.query.reference,)
        assert event.result is not None
        assert (event.result.verdict, event.result.requested) == (verdict, Money(20_000, "NGN"))


@pytest.mark.parametrize("outcome", ["timeout_after_charging", "server_error_after_charging", "dropped_after_charging"])
async def test_a_refund_whose_answer_was_lost_is_found_in_the_list(bench: Bench, outcome: str) -> None:
    payment = await paid(bench)
    other = await refunded(bench, payment.query, 20_000)
    lost = await refunded(bench, payment.query, 20_000, outcome)
    assert (lost.answer.verdict, lost.answer.provider_references) == (Verdict.UNKNOWN, ())
    found = await lost.ended()
    assert (found.verdict, found.reference) == (Verdict.COMPLETED, lost.order.reference)
    assert found.provider_references != other.answer.provider_references
    assert await rows(bench, payment.query) == 2


@pytest.mark.parametrize("outcome", ["server_error", "html_error"])
async def test_a_refund_that_never_came_to_be_is_not_mistaken_for_another(bench: Bench, outcome: str) -> None:
    payment = await paid(bench)
    await refunded(bench, payment.query, 20_000)
    lost = await refunded(bench, payment.query, 20_000, outcome)
    assert lost.answer.verdict is Verdict.UNKNOWN
    assert (await lost.fetch()).verdict is Verdict.UNKNOWN


async def test_a_refund_made_elsewhere_is_found_by_its_amount_unless_it_is_taken(bench: Bench) -> None:
    payment = await paid(bench)
    body = {"transaction": payment.query.reference, "amount": 20_000}
    key = {"authorization": "Bearer " + bench.credentials["paystack"].secret_key.get_secret_value()}
    answer = await bench.client.post(f"{bench.url}/paystack/refund", json=body, headers=key)
    elsewhere = str(answer.json()["data"]["id"])
    query = a_refund_query(Money(20_000, "NGN"), payment.query)
    found = await asked(bench, "fetch_refund", query)
    assert found.provider_references == (elsewhere,)
    taken = await asked(bench, "fetch_refund", dataclasses.replace(query, taken=(elsewhere,)))
    assert taken.verdict is Verdict.UNKNOWN


# Direct charges


async def charged(bench: Bench, outcome: str = "success", **changes: Any) -> Attempt:
    return await bench.collect("paystack", outcome, **{"amount": NGN, "method": "bank", "details": BANK, **changes})


async def given(attempt: Attempt, kind: ActionType, value: str) -> Result:
    submission = Submission(kind, SecretStr(value))
    result: Result = await asked(attempt.bench, "submit", attempt.query, submission)
    return result


def wanted(result: Result) -> ActionType | None:
    return result.next_action.type if result.next_action else None


async def test_a_bank_is_charged_step_by_step(bench: Bench) -> None:
    attempt = await charged(bench)
    assert wanted(attempt.collected) is ActionType.BIRTHDAY
    assert wanted(await attempt.fetch()) is ActionType.BIRTHDAY
    assert wanted(await given(attempt, ActionType.BIRTHDAY, "1999-10-14")) is ActionType.OTP
    assert wanted(await attempt.fetch()) is ActionType.OTP
    assert (await attempt.charges())["money_taken_minor"] == 0
    last = await given(attempt, ActionType.OTP, "123456")
    assert (last.verdict, last.requested, last.paid) == (Verdict.COMPLETED, NGN, NGN)
    assert (await attempt.fetch()).verdict is Verdict.COMPLETED
    assert (await attempt.results())[0].verdict is Verdict.COMPLETED
    assert (await attempt.charges())["money_taken_minor"] == 50_000


async def test_a_birthday_given_at_once_is_not_asked_for(bench: Bench) -> None:
    attempt = await charged(bench, details=dataclasses.replace(BANK, birthday=SecretStr("1999-10-14")))
    assert wanted(attempt.collected) is ActionType.OTP


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ActionType.PIN, "1111"),
        (ActionType.PHONE, "08012345678"),
        (ActionType.ADDRESS, "1 Main Street, Lekki, Lagos, 101233"),
    ],
)
async def test_each_further_step_is_asked_for_and_taken(bench: Bench, kind: ActionType, value: str) -> None:
    attempt = await charged(bench)
    await bench.control("POST", f"/charges/paystack/{attempt.query.reference}/send_{kind.value}")
    assert wanted(await attempt.fetch()) is kind
    assert wanted(await given(attempt, kind, value)) is ActionType.BIRTHDAY


async def test_a_wrong_code_ends_the_charge_and_leaves_no_page(bench: Bench) -> None:
    attempt = await charged(bench)
    await given(attempt, ActionType.BIRTHDAY, "1999-10-14")
    wrong = await given(attempt, ActionType.OTP, "000000")
    assert (wrong.verdict, wrong.session_open) == (Verdict.DECLINED, False)
    after = await attempt.fetch()
    assert (after.verdict, after.session_open) == (Verdict.DECLINED, False)
    assert (await attempt.charges())["money_taken_minor"] == 0


async def test_a_bank_that_declines_after_the_right_code_is_a_decline(bench: Bench) -> None:
    attempt = await charged(bench, "insufficient_funds")
    await given(attempt, ActionType.BIRTHDAY, "1999-10-14")
    result = await given(attempt, ActionType.OTP, "123456")
    assert (result.verdict, result.failure and result.failure.code) == (Verdict.DECLINED, "insufficient_funds")


GHANA: dict[str, Any] = {
    "method": "mobile_money",
    "amount": Money(10_000, "GHS"),
    "customer": Customer("ama@customer.example", "+233551234987"),
}
KENYA: dict[str, Any] = {"method": "mobile_money", "amount": Money(10_000, "KES")}
ZAR = Money(10_000, "ZAR")


@pytest.mark.parametrize(
    ("changes", "action", "field"),
    [
        ({**GHANA, "details": PaymentDetails(operator="mtn")}, ActionType.HANDSET_PROMPT, None),
        ({**KENYA, "details": PaymentDetails(operator="mpesa")}, ActionType.HANDSET_PROMPT, None),
        ({**KENYA, "details": PaymentDetails(operator="mpesa_offline")}, ActionType.TRANSFER, "account_reference"),
        ({"method": "ussd", "details": PaymentDetails(ussd_code="737")}, ActionType.USSD, "ussd_code"),
        ({"method": "bank_transfer", "details": PaymentDetails()}, ActionType.TRANSFER, "account_number"),
        ({"method": "eft", "amount": ZAR, "details": PaymentDetails()}, ActionType.REDIRECT, None),
        ({"method": "qr", "amount": ZAR, "details": PaymentDetails()}, ActionType.REDIRECT, "qr_code"),
    ],
)
async def test_a_customer_who_pays_elsewhere_is_told_how_and_completes_by_the_webhook(
    bench: Bench, changes: dict[str, Any], action: ActionType, field: str | None
) -> None:
    attempt = await charged(bench, **changes)
    assert wanted(attempt.collected) is action
    assert attempt.collected.next_action is not None
    assert field is None or attempt.collected.next_action.fields[field]
    (completed,) = await attempt.results()
    assert (completed.verdict, completed.requested) == (Verdict.COMPLETED, attempt.query.amount)
    assert (await attempt.ended()).verdict is Verdict.COMPLETED


async def test_a_prompt_that_nobody_answers_keeps_waiting(bench: Bench) -> None:
    attempt = await charged(bench, "silent", **GHANA, details=PaymentDetails(operator="mtn"))
    result = await attempt.fetch()
    assert (result.verdict, result.next_action, result.raw_status) == (Verdict.REQUIRES_ACTION, None, "pay_offline")


async def test_a_direct_charge_is_refused_declined_or_lost_like_any_other(bench: Bench) -> None:
    ussd: dict[str, Any] = {"method": "ussd", "details": PaymentDetails(ussd_code="737")}
    refused = await charged(bench, "refuse", **ussd)
    assert refused.collected.verdict is Verdict.REFUSED
    declined = await charged(bench, "decline", **ussd)
    assert (await declined.ended()).verdict is Verdict.DECLINED
    lost = await charged(bench, "server_error_after_charging", **ussd)
    assert lost.collected.verdict is Verdict.UNKNOWN
    assert (await lost.ended()).verdict is Verdict.COMPLETED
    again = await charged(bench, reference=lost.query.reference, **ussd)
    assert (again.collected.verdict, again.collected.raw_status) == (Verdict.UNKNOWN, "400 duplicate_reference")
    assert (await lost.charges())["charges"] == 1


# Disputes


async def test_a_dispute_is_told_and_its_end_takes_the_payment_back_or_not(bench: Bench) -> None:
    for action, kind, verdict in (
        ("dispute", "charge.dispute.create", Verdict.DISPUTED),
        ("dispute_accept", "charge.dispute.resolve", Verdict.REVERSED),
        ("dispute_decline", "charge.dispute.resolve", Verdict.DISPUTE_WON),
    ):
        payment = await paid(bench)
        bench.webhooks.clear()
        await bench.control("POST", f"/charges/paystack/{payment.query.reference}/{action}")
        event = await the_event(bench, kind)
        assert (event.trust, event.operation) == (Trust.SIGNED, Operation.COLLECT)
        assert event.references == (payment.query.reference,)
        assert event.provider_references == payment.query.provider_references
        assert event.dedupe_key
        assert event.result is not None
        assert event.result.verdict is verdict
        # Only the lost one is reversed at Paystack too: there is no refund that would explain it.
        asked_for = await payment.fetch()
        assert asked_for.verdict is (Verdict.REVERSED if action == "dispute_accept" else Verdict.COMPLETED)


async def test_a_dispute_that_takes_a_part_says_how_much(bench: Bench) -> None:
    """So that a person is told: money has left, and no verdict says which part of the books it takes."""
    payment = await paid(bench)
    await bench.control("POST", f"/charges/paystack/{payment.query.reference}/dispute_accept_part")
    told = (await the_event(bench, "charge.dispute.resolve")).result
    assert told is not None
    assert (told.verdict, told.requested) == (Verdict.REVERSED, Money(NGN.minor // 2, "NGN"))


# Transfers


@dataclasses.dataclass
class Payout:
    bench: Bench
    order: PayoutOrder
    answer: Result

    @property
    def query(self) -> Query:
        query = a_payout_query(self.order.amount, *self.answer.provider_references)
        return dataclasses.replace(query, reference=self.order.reference)

    async def fetch(self) -> Result:
        result: Result = await asked(self.bench, "fetch_payout", self.query)
        return result

    async def ended(
        self, fits: Callable[[Result], bool] = lambda result: result.verdict is not Verdict.PROCESSING
    ) -> Result:
        result: Result = await until(self.fetch, fits)
        return result


async def sent(bench: Bench, outcome: str = "success", **changes: Any) -> Payout:
    await bench.control("POST", "/outcomes", provider="paystack", operation="payout", outcome=outcome, times=1)
    order = dataclasses.replace(a_payout(NGN, ACCOUNT), **{"reference": named(), **changes})
    bench.adapters["paystack"].check_payout(order)
    return Payout(bench, order, await asked(bench, "pay_out", order))


async def calls(bench: Bench, path: str) -> int:
    listed = await bench.control("GET", "/requests?provider=paystack")
    return sum(row["path"] == path for row in listed["requests"])


@pytest.mark.parametrize(("amount", "destination"), [(NGN, ACCOUNT), (Money(10_000, "GHS"), PHONE)])
async def test_a_transfer_is_on_its_way_and_then_there(bench: Bench, amount: Money, destination: Destination) -> None:
    payout = await sent(bench, amount=amount, destination=destination)
    assert (payout.answer.verdict, payout.answer.requested) == (Verdict.PROCESSING, amount)
    ended = await payout.ended()
    assert (ended.verdict, ended.requested, ended.reference) == (Verdict.COMPLETED, amount, payout.order.reference)
    event = await the_event(bench, "transfer.success")
    assert (event.trust, event.operation) == (Trust.SIGNED, Operation.PAYOUT)
    assert event.references == (payout.order.reference,)
    assert event.provider_references == payout.answer.provider_references
    assert event.result is not None
    assert (event.result.verdict, event.result.requested) == (Verdict.COMPLETED, amount)


async def test_a_transfer_waits_for_the_merchants_code(bench: Bench) -> None:
    payout = await sent(bench, "needs_otp")
    assert (payout.answer.verdict, wanted(payout.answer)) == (Verdict.REQUIRES_ACTION, ActionType.OTP)
    assert wanted(await payout.fetch()) is ActionType.OTP
    wrong = await asked(bench, "submit", payout.query, Submission(ActionType.OTP, SecretStr("000000")))
    assert wrong.verdict is Verdict.UNKNOWN
    assert wanted(await payout.fetch()) is ActionType.OTP
    right = await asked(bench, "submit", payout.query, Submission(ActionType.OTP, SecretStr("123456")))
    assert right.verdict is Verdict.PROCESSING
    assert (await payout.ended()).verdict is Verdict.COMPLETED


async def test_a_transfer_that_is_sent_back_after_its_success_is_reversed(bench: Bench) -> None:
    payout = await sent(bench, "late_failure")
    event = await the_event(bench, "transfer.reversed")
    success = await the_event(bench, "transfer.success")
    assert event.result is not None
    assert event.result.verdict is Verdict.REVERSED
    assert event.dedupe_key != success.dedupe_key
    assert (await payout.fetch()).verdict is Verdict.REVERSED


async def test_a_transfer_that_fails_is_declined(bench: Bench) -> None:
    payout = await sent(bench, "decline")
    ended = await payout.ended()
    assert (ended.verdict, ended.failure and ended.failure.code) == (Verdict.DECLINED, "transfer_failed")
    event = await the_event(bench, "transfer.failed")
    assert event.result is not None
    assert event.result.verdict is Verdict.DECLINED


async def test_a_reference_used_twice_for_a_transfer_is_unknown_and_sends_once(bench: Bench) -> None:
    first = await sent(bench)
    await first.ended()
    second = await sent(bench, reference=first.order.reference)
    assert (second.answer.verdict, second.answer.failure) == (Verdict.UNKNOWN, None)
    assert (await second.fetch()).verdict is Verdict.COMPLETED
    assert len(await told(bench, "transfer.success")) == 1


@pytest.mark.parametrize("outcome", ["timeout_after_charging", "server_error_after_charging", "dropped_after_charging"])
async def test_a_transfer_whose_answer_was_lost_is_asked_for_by_our_reference(bench: Bench, outcome: str) -> None:
    payout = await sent(bench, outcome)
    assert (payout.answer.verdict, payout.answer.provider_references) == (Verdict.UNKNOWN, ())
    assert (await payout.ended()).verdict is Verdict.COMPLETED
    assert await calls(bench, "/transfer") == 1


async def test_a_transfer_that_was_refused_or_never_arrived_is_not_found(bench: Bench) -> None:
    refused = await sent(bench, "refuse")
    assert (refused.answer.verdict, refused.answer.failure and refused.answer.failure.code) == (
        Verdict.REFUSED,
        "insufficient_balance",
    )
    lost = await sent(bench, "server_error")
    assert lost.answer.verdict is Verdict.UNKNOWN
    for payout in (refused, lost):
        result = await payout.fetch()
        assert (result.verdict, result.expirable) == (Verdict.NOT_FOUND, False)


async def test_an_account_that_paystack_does_not_take_gets_no_transfer(bench: Bench) -> None:
    payout = await sent(bench, destination=dataclasses.replace(ACCOUNT, account_number="9999999999"))
    assert (payout.answer.verdict, payout.answer.failure and payout.answer.failure.code) == (
        Verdict.REFUSED,
        "invalid_recipient",
    )
    assert await calls(bench, "/transfer") == 0


async def test_banks_and_the_holder_of_an_account_are_looked_up(bench: Bench) -> None:
    banks = await asked(bench, "banks", "GHS")
    assert Bank("040100", "Access Bank", "GHS") in banks
    assert Bank("MTN", "MTN", "GHS", DestinationType.MOBILE_MONEY) in banks
    assert {bank.currency for bank in banks} == {"GHS"}
    assert await asked(bench, "resolve_account", ACCOUNT) == AccountHolder("ADA OBI", "0000000000", "057")
    for changes, code in (
        ({"account_number": "9999999999"}, "account_not_found"),
        ({"bank_code": "059"}, "unknown_bank"),
    ):
        with pytest.raises(LookupFailed) as failed:
            await asked(bench, "resolve_account", dataclasses.replace(ACCOUNT, **changes))
        assert failed.value.failure is not None
        assert failed.value.failure.code == code


async def test_two_orders_at_once_for_one_account_use_one_recipient(bench: Bench) -> None:
    payouts = await asyncio.gather(sent(bench), sent(bench))
    assert {(await payout.ended()).verdict for payout in payouts} == {Verdict.COMPLETED}
    assert await calls(bench, "/transfer") == 2
