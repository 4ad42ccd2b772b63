"""The webhook examples of the providers' documents, byte for byte, through the endpoint to their effect.

Each is sent as raw bytes with a genuine proof of origin. What it is about is written into the database before, under the
documents' own references; where an example is only a hint, the provider's answer to our question stands beside it.
"""

import json
from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson
import pytest

from payflow.infra.queue.port import WEBHOOKS
from tests.house import House, Merchant, Urls, running_house
from tests.webhooks.desk import PATHS, callback_token, counted, proof, send
from tests.webhooks.example_desk import EXAMPLES, Answering, Known, Planted, forget, plant, sent, standing

Says = list[tuple[str, int, Any]]
BINDS_BYTES = ("paystack", "moniepoint", "stripe", "standardbank_pay")
BY_TOKEN = ("mpesa", "cpay")
HINTS = ("flutterwave", "vtpass", *BY_TOKEN)


@dataclass(frozen=True)
class Case:
    """An example, what it is about, what the provider answers when asked, and what becomes of it."""

    provider: str
    example: str
    known: Known
    outcome: str
    status: str
    journals: tuple[str, ...] = ()
    paid: int = 0
    says: Says = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return EXAMPLES[self.provider][self.example]

    def __str__(self) -> str:
        return f"{self.provider}: {self.example}"


COLLECTED, REFUNDED, REVERSED = ("collected",), ("refunded",), ("reversed",)


def completes(provider: str, example: str, known: Known, **more: Any) -> Case:
    says = more.pop("says", [])
    return Case(provider, example, known, "settled", "completed", COLLECTED, known.minor, says, more)


def out(known: Known, status: str = "processing", kind: str = "withdrawal", operation: str = "payout") -> Known:
    """The same as money that we sent."""
    return replace(known, status=status, kind=kind, operation=operation)


def refunding(known: Known, refund: Known) -> Known:
    """The same, paid, with a refund of it on its way."""
    return replace(known, status="completed", refund=replace(refund, status="processing", operation="refund"))


def data_of(provider: str, example: str) -> dict[str, Any]:
    return dict(orjson.loads(EXAMPLES[provider][example])["data"])


# What the documents' references stand for.
CARD = Known(10_000, "NGN", "qTPrJoy9Bx", ("302961",))
PAID_CARD = replace(CARD, status="completed")
PAYSTACK_SENT = Known(100_000, "NGN", "acv_9ee55786-2323-4760-98e2-6380c9cb3f68", ("TRF_v5tip3zx8nna9o78", "860703114"))
PAYSTACK_FAILING = Known(200_000, "NGN", "1976435206", ("TRF_chs98y5rykjb47w", "69123462"))
ACCOUNT = Known(300_000, "NGN", "MNFY|04|20211117112842|000170", ("MNFY|04|20211117112842|000170",))
MONNIFY_PAID = Known(5_000, "NGN", "refunded-1", ("MNFY|20190816083102|000021",))
INTENT = Known(2_000, "USD", "intent-1", ("pi_3A",))
PAID_INTENT = replace(INTENT, ids=("pi_3A", "ch_3A"), status="completed")
SBP = Known(15_000, "LSL", "sbpreference000000000000000001", ("SBP-2026-000123",))
PROMPT = Known(100, "KES", "prompt-1", ("ws_CO_191220191020363925", "29115-34620561-1"))
CANCELLED_PROMPT = Known(
    100, "KES", "prompt-2", ("ws_CO_21072024125243250722943992", "f1e2-4b95-a71d-b30d3cdbb7a7942864")
)
REVERSIBLE = Known(100, "KES", "prompt-3", ("SKC82PACB8",))
CPAY = Known(15_000, "LSL", "attcpay0000000000000000000001")
LINK = Known(10_000, "NGN", "Links-616626414629", ("285959875",))
BOUGHT = Known(
    10_000, "NGN", "vtpassreference00000000000001", ("202503101014vtpassreference00000000000001",),
    kind="airtime", operation="purchase", status="processing", created_at=datetime(2025, 3, 10, 9, 14, tzinfo=UTC),
)  # fmt: skip

# What the providers answer when a hint makes us ask.
VERIFIED = data_of("flutterwave", "charge.completed: successful")
TRANSFERRED = data_of("flutterwave", "transfer.completed: successful")


def verified(**changes: Any) -> Says:
    body = {"status": "success", "message": "Transaction fetched successfully", "data": VERIFIED | changes}
    return [("/verify", 200, body), ("/transactions?", 200, {"status": "success", "data": []})]


def transferred(**changes: Any) -> Says:
    body = {"status": "success", "message": "Transfer fetched", "data": TRANSFERRED | changes}
    return [("/transfers/33286", 200, body)]


def queried(known: Known, code: str) -> Says:
    ids = {"CheckoutRequestID": known.ids[0], "MerchantRequestID": known.ids[1]}
    answer = {"ResponseCode": "0", "ResponseDescription": "accepted", **ids, "ResultCode": code, "ResultDesc": "told"}
    return [("stkpushquery", 200, answer)]


def cpay_says(status: str, reason: str) -> Says:
    return [("transaction-status", 200, {"StatusCode": "200", "PaymentRequestStatus": status, "ReasonCode": reason})]


def requeried(example: str, **changes: Any) -> Says:
    body = deepcopy(data_of("vtpass", example))
    body["content"]["transactions"] |= changes
    return [("/requery", 200, body)]


def paystack_refund(status: str, minor: int) -> Says:
    """Its list of the payment's refunds, with the one that was made here."""
    row = {"id": 3018284, "status": status, "amount": minor, "currency": "NGN", "transaction": 302961, "dispute": None}
    return [("/refund/3018284", 200, _paystack(row)), ("/refund?", 200, _paystack([row]))]


def _paystack(data: Any) -> dict[str, Any]:
    return {"status": True, "message": "Refunds retrieved", "data": data}


def flutterwave_refund(status: str) -> Says:
    row = {"id": 8612, "tx_id": 5708, "amount_refunded": 50, "status": status, "created_at": "2020-01-24T09:18:37.366Z"}
    return [("/refunds/8612", 200, {"status": "success", "message": "Refund fetched", "data": row})]


PROCESSED, OPEN = cpay_says("processed", "paymentComplete"), cpay_says("open", "paymentIncomplete")


def paystack_refunded(payment: str, minor: int) -> Known:
    refund = Known(minor, "NGN", "paystack-refund", ("3018284",))
    return refunding(Known(30_000, "NGN", "paystack-paid", ("302961", payment)), refund)


def completed_refund(provider: str, example: str, known: Known, says: Says | None = None) -> Case:
    assert known.refund is not None
    part = known.refund.minor < known.minor
    more = {"refund": "completed", "refunded_minor": known.refund.minor}
    status = "partially_refunded" if part else "refunded"
    return Case(provider, example, known, "settled", status, REFUNDED, known.minor, says or [], more)


def failed_refund(provider: str, example: str, known: Known, says: Says | None = None) -> Case:
    more = {"refund": "failed", "refunded_minor": 0}
    return Case(provider, example, known, "settled", "completed", (), known.minor, says or [], more)


PROCESSED_REFUND = paystack_refunded("T2154954_412829_3be32076_6lcg3", 5_000)
PENDING_REFUND = paystack_refunded("tvunjbbd_412829_4b18075d_c7had", 10_000)
FLUTTERWAVE_REFUND = refunding(
    Known(10_000, "NGN", "paid-5708", ("5708",)), Known(5_000, "NGN", "flutterwave-refund", ("8612",))
)
STRIPE_REFUND = refunding(PAID_INTENT, Known(500, "USD", "stripe-refund", ("re_3A",)))
REVERSAL = refunding(REVERSIBLE, Known(100, "KES", "reversal-1", ("AG_20211114_201048", "2b62-4d5b-a5a0-4ba0")))

CASES = [
    completes("paystack", "charge.success by card", CARD, fee_minor=None),
    completes("paystack", "charge.success by bank transfer",
              Known(25_000, "NGN", "zuz8ggd1ro", ("3104021987",)), fee_minor=375),
    completes("paystack", "charge.success by mobile money",
              Known(50_000, "GHS", "mm1ggd1rozuz8", ("3104121987",)), fee_minor=975),
    Case("paystack", "bank.transfer.rejected", Known(30_000, "NGN", "awaited", ("3103959930",)), "ignored", "requires_action"),
    Case("paystack", "transfer.success", out(PAYSTACK_SENT), "settled", "completed", paid=100_000),
    Case("paystack", "transfer.failed", out(PAYSTACK_FAILING), "settled", "failed",
         more={"failure_code": "transfer_failed"}),
    Case("paystack", "transfer.reversed", out(PAYSTACK_FAILING, "completed"), "settled", "reversed", paid=200_000),
    Case("paystack", "charge.dispute.create", PAID_CARD, "settled", "under_review", paid=10_000),
    Case("paystack", "charge.dispute.remind", PAID_CARD, "ignored", "completed", paid=10_000),
    Case("paystack", "charge.dispute.resolve: lost", PAID_CARD, "settled", "reversed", REVERSED, 10_000),
    Case("paystack", "charge.dispute.resolve: won", PAID_CARD, "unchanged", "completed", paid=10_000),
    # Known to be on its way: nothing to ask about.
    Case("paystack", "refund.pending", PENDING_REFUND, "unchanged", "completed", (), 30_000, [], {"refund": "processing"}),
    Case("paystack", "refund.processing", PENDING_REFUND, "unchanged", "completed", (), 30_000, [], {"refund": "processing"}),
    completed_refund("paystack", "refund.processed", PROCESSED_REFUND, paystack_refund("processed", 5_000)),
    failed_refund("paystack", "refund.failed", paystack_refunded("T9171231_412325_3be2736c_n6tml", 20_000),
                  paystack_refund("failed", 20_000)),
    Case("paystack", "refund.needs-attention", paystack_refunded("88bfa94509eb96aa9785641c26cc57cc", 5_306), "settled",
         "completed", (), 30_000, paystack_refund("needs-attention", 5_306), {"refund": "processing"}),

    completes("flutterwave", "charge.completed: successful", LINK, says=verified(), fee_minor=140),
    Case("flutterwave", "charge.completed: failed", LINK, "settled", "requires_action", says=verified(status="failed"),
         more={"attempt": "declined"}),
    Case("flutterwave", "transfer.completed: successful",
         out(Known(3_002_000, "NGN", "a0a827b1eca65311_PMCKDU_5", ("33286",))), "settled", "completed",
         paid=3_002_000, says=transferred()),
    Case("flutterwave", "transfer.completed: failed",
         out(Known(3_002_000, "NGN", "a0a827b1eca65311_PMCKDU_5", ("33286",))), "settled", "failed",
         says=transferred(status="FAILED", complete_message="DISBURSE FAILED: Insufficient funds in customer wallet")),
    completed_refund("flutterwave", "refund without an envelope", FLUTTERWAVE_REFUND,
                     flutterwave_refund("completed-mpgs")),

    completes("moniepoint", "SUCCESSFUL_TRANSACTION", ACCOUNT, fee_minor=1_000),
    completes("moniepoint", "SUCCESSFUL_TRANSACTION of cash",
              Known(7_800_000, "NGN", "0.01462001097368737", ("MNFY|76|20211117154810|000001",)), fee_minor=40_000),
    completes("moniepoint", "SUCCESSFUL_TRANSACTION by card, its amounts as text",
              Known(10_000, "NGN", "fdffc5b7a0", ("MNFY|67|20220725111957|000211",)), fee_minor=1_000),
    Case("moniepoint", "REJECTED_PAYMENT",
         Known(10_000, "NGN", "MNFY|PAYREF|GENERATED|1687798434397393735", ("MNFY|85|20230626175354|041855",)),
         "settled", "requires_action", more={"attempt": "declined"}),
    Case("moniepoint", "SUCCESSFUL_DISBURSEMENT",
         out(Known(1_000, "NGN", "ref1615947809303", ("MFDS|20210317032332|002431",))), "settled", "completed", paid=1_000),
    Case("moniepoint", "FAILED_DISBURSEMENT",
         out(Known(1_000, "NGN", "ref1615947809304", ("MFDS|20210317032332|002432",))), "settled", "failed"),
    Case("moniepoint", "REVERSED_DISBURSEMENT",
         out(Known(14_570_800, "NGN", "662d2dcf22132ea227db164e-1715631494637", ("MFDS33920240513211815009133P47MKU",)),
             "completed"), "settled", "reversed", paid=14_570_800),
    completed_refund("moniepoint", "SUCCESSFUL_REFUND",
                     refunding(MONNIFY_PAID, Known(1_000, "NGN", "ref001", ("ref001",)))),
    failed_refund("moniepoint", "FAILED_REFUND", refunding(MONNIFY_PAID, Known(1_000, "NGN", "ref002", ("ref002",)))),

    completes("stripe", "payment_intent.succeeded", INTENT),
    Case("stripe", "payment_intent.payment_failed", replace(INTENT, ids=("pi_3B",)), "settled", "requires_action",
         more={"attempt": "declined"}),
    Case("stripe", "payment_intent.processing", Known(1_000, "EUR", "intent-3", ("pi_3C",)), "settled", "processing"),
    Case("stripe", "payment_intent.canceled", replace(INTENT, ids=("pi_3D",)), "settled", "cancelled"),
    Case("stripe", "payment_intent.requires_action", replace(INTENT, ids=("pi_3E",)), "unchanged", "requires_action"),
    Case("stripe", "payment_intent.created", INTENT, "unchanged", "requires_action"),
    completes("stripe", "checkout.session.completed", Known(3_000, "USD", "pay_1", ("cs_test_a1",))),
    Case("stripe", "checkout.session.completed, not yet paid", Known(3_000, "USD", "pay_1", ("cs_test_a5",)),
         "settled", "processing"),
    completes("stripe", "checkout.session.async_payment_succeeded",
              Known(3_000, "USD", "pay_1", ("cs_test_a4",), status="processing")),
    Case("stripe", "checkout.session.async_payment_failed",
         Known(3_000, "USD", "pay_1", ("cs_test_a3",), status="processing"), "settled", "failed"),
    Case("stripe", "checkout.session.expired", Known(3_000, "USD", "pay_1", ("cs_test_a2",)), "settled", "expired"),
    Case("stripe", "charge.succeeded", replace(INTENT, ids=("pi_3A", "ch_3A")), "ignored", "requires_action"),
    Case("stripe", "charge.failed", replace(INTENT, ids=("pi_3B", "ch_3B")), "ignored", "requires_action"),
    Case("stripe", "charge.refunded", PAID_INTENT, "ignored", "completed", paid=2_000),
    Case("stripe", "refund.created", STRIPE_REFUND, "unchanged", "completed", paid=2_000, more={"refund": "processing"}),
    completed_refund("stripe", "refund.updated", STRIPE_REFUND),
    failed_refund("stripe", "refund.failed", refunding(PAID_INTENT, Known(500, "USD", "stripe-refund", ("re_3B",)))),
    Case("stripe", "charge.dispute.created", PAID_INTENT, "settled", "under_review", paid=2_000),
    Case("stripe", "charge.dispute.closed: lost", PAID_INTENT, "settled", "reversed", REVERSED, 2_000),
    Case("stripe", "charge.dispute.closed: won", PAID_INTENT, "unchanged", "completed", paid=2_000),

    completes("mpesa", "STK callback of success", PROMPT, says=queried(PROMPT, "0"), receipt="NLJ7RT61SV"),
    Case("mpesa", "STK callback of failure", CANCELLED_PROMPT, "settled", "cancelled",
         says=queried(CANCELLED_PROMPT, "1032")),
    Case("mpesa", "B2C result of success",
         out(Known(1_000, "KES", "b2c-1", ("AG_20240706_2010364430d9bbdaf872", "53e3-4aa8-9fe0-8fb5e4092cdd3533373"))),
         "settled", "completed", paid=1_000, more={"receipt": "SG632NMUAB"}),
    Case("mpesa", "B2C result of failure",
         out(Known(1_000, "KES", "b2c-2", ("AG_20240706_2010364430d9bbdaf873", "53e3-4aa8-9fe0-8fb5e4092cdd3533374"))),
         "settled", "failed"),
    completed_refund("mpesa", "reversal result of success", REVERSAL),
    failed_refund("mpesa", "reversal result of failure",
                  refunding(REVERSIBLE, Known(100, "KES", "reversal-2", ("AG_20211114_201049", "2b62-4d5b-a5a0-4ba1")))),
    Case("mpesa", "account balance", PROMPT, "ignored", "requires_action"),
    # Money that a customer sends alone is told at an address of its own; at the one of a prompt it is not believed.
    Case("mpesa", "C2B confirmation", replace(PROMPT, minor=500), "ignored", "requires_action"),

    completes("cpay", "callback with the expected members", CPAY, says=PROCESSED),
    completes("cpay", "callback in the words of UAT", CPAY, says=PROCESSED),
    Case("cpay", "callback of a denial", CPAY, "settled", "failed", says=cpay_says("denied", "invalidPassword")),

    completes("standardbank_pay", "PAYMENT_SETTLED", SBP, receipt="LE-1"),
    Case("standardbank_pay", "PAYMENT_DECLINED", SBP, "settled", "failed", more={"failure_code": "declined"}),
    Case("standardbank_pay", "PAYMENT_EXPIRED", SBP, "settled", "expired"),
    Case("standardbank_pay", "PAYMENT_CANCELLED", SBP, "settled", "cancelled"),
    Case("standardbank_pay", "PAYMENT_REVERSED", replace(SBP, status="completed"), "settled", "reversed", REVERSED, 15_000),
    Case("standardbank_pay", "PAYMENT_VIEWED, not listed", SBP, "ignored", "requires_action"),
    # The older contract names neither the event nor the payment.
    Case("standardbank_pay", "PAYMENT_SETTLED of the older contract", SBP, "malformed", "requires_action"),

    Case("vtpass", "transaction-update: delivered", BOUGHT, "settled", "completed", paid=10_000,
         says=requeried("transaction-update: delivered"), more={"receipt": "17415980564672211234567890"}),
    Case("vtpass", "transaction-update: reversed", replace(BOUGHT, minor=5_000, status="completed"), "settled",
         "reversed", paid=5_000, says=requeried("transaction-update: reversed")),
]  # fmt: skip

# Examples that are about nothing of ours.
NEWS = {
    "paystack": {"customeridentification.success", "subscription.create", "paymentrequest.success",
                 "subscription.expiring_cards"},
    "flutterwave": {"subscription.cancelled", "test_assess", "singlebillpayment.status"},
    "moniepoint": {"SETTLEMENT", "LOW_BALANCE_ALERT", "ACCOUNT_ACTIVITY", "MANDATE_UPDATE",
                   "POS: V1_POS_TRANSFER_TRANSACTION"},
    "stripe": {"radar.early_fraud_warning.created", "balance.available", "payout.paid"},
    "vtpass": {"variations-update"},
}  # fmt: skip
UNSENT = {("moniepoint", "POS: V1_POS_TRANSFER_TRANSACTION")}  # another product, with a signature of its own

ALL = [
    (provider, name) for provider, examples in EXAMPLES.items() for name in examples if (provider, name) not in UNSENT
]
SETTLED = [case for case in CASES if case.outcome == "settled"]
COLLECTING = [case for case in SETTLED if case.journals == COLLECTED]


@dataclass
class Desk:
    house: House
    ada: Merchant
    providers: Answering

    async def plant(self, case: Case, **changes: Any) -> Planted:
        self.providers.says, self.providers.asked = list(case.says), []
        return await plant(self.house, self.ada, case.provider, replace(case.known, **changes))

    async def send(self, case: Case, planted: Planted, body: bytes | None = None) -> dict[str, int]:
        path = planted.path(case.provider, of_refund=True) if case.provider in BY_TOKEN else None
        return await sent(self.house, case.provider, body or case.body, path=path)


@pytest.fixture(scope="module")
async def built(urls: Urls) -> AsyncIterator[Desk]:
    ways: list[Answering] = []

    def transport(inner: Any) -> Answering:
        ways.append(Answering(inner))
        return ways[-1]

    async with running_house(
        urls,
        amqp_url="",
        transport=transport,
        simulator={"automatic_customer": False, "deliver_webhooks": False},
        timer_interval_seconds=3_600.0,
        overtaken_delays_seconds=(0.05, 0.05),
        ladder_seconds=(0.05,),
        spool_poll_seconds=0.05,
        refused_webhooks_per_minute=1_000_000,
    ) as house:
        yield Desk(house, await house.merchant(), ways[0])


@pytest.fixture
async def desk(built: Desk) -> Desk:
    await forget(built.house)
    built.providers.says, built.providers.asked = [], []
    return built


def test_every_example_is_looked_at() -> None:
    looked_at = {(case.provider, case.example) for case in CASES}
    news = {(provider, name) for provider, names in NEWS.items() for name in names}
    assert looked_at | news == {(provider, name) for provider, names in EXAMPLES.items() for name in names}
    assert not looked_at & news


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_an_example_moves_what_it_is_about(desk: Desk, case: Case) -> None:
    planted = await desk.plant(case)
    counts = await desk.send(case, planted)
    assert {word: many for word, many in counts.items() if word != "retried"} == {case.outcome: 1}
    now = await standing(desk.house, planted)
    assert (now["status"], now["paid_minor"], tuple(now["journals"])) == (case.status, case.paid, case.journals)
    assert {name: now[name] for name in case.more} == case.more
    assert bool(desk.providers.asked) == bool(case.says)


@pytest.mark.parametrize("case", SETTLED, ids=str)
async def test_an_example_three_times_moves_once(desk: Desk, case: Case) -> None:
    planted = await desk.plant(case)
    assert (await desk.send(case, planted))["settled"] == 1
    once = await standing(desk.house, planted)
    for _ in range(2):
        again = await desk.send(case, planted)
        assert set(again) <= {"duplicate", "unchanged"}, again
    assert await standing(desk.house, planted) == once


@pytest.mark.parametrize("case", [case for case in CASES if case.provider in BINDS_BYTES], ids=str)
async def test_an_example_that_was_altered_is_refused(desk: Desk, case: Case) -> None:
    """By one byte, or in its whitespace alone: what is signed are the bytes."""
    planted = await desk.plant(case)
    before = await standing(desk.house, planted)
    genuine = proof(desk.house, case.provider, case.body)
    middle = len(case.body) // 2
    flipped = case.body[:middle] + bytes([case.body[middle] ^ 1]) + case.body[middle + 1 :]
    spaced = json.dumps(orjson.loads(case.body), indent=1).encode()
    refused = counted(desk.house, case.provider, "refused")
    for body in (flipped, spaced, case.body + b"\n", case.body[:-1]):
        assert body != case.body
        answer = await send(desk.house, PATHS.get(case.provider, case.provider), body, genuine)
        assert (answer.status_code, answer.json()["code"]) == (401, "webhook_refused")
    assert counted(desk.house, case.provider, "refused") == refused + 4
    assert sum([await queue.depth(WEBHOOKS) for queue in desk.house.services.queue.queues]) == 0
    assert await standing(desk.house, planted) == before


@pytest.mark.parametrize("case", [case for case in SETTLED if case.provider in HINTS], ids=str)
async def test_the_whitespace_of_a_hint_does_not_matter(desk: Desk, case: Case) -> None:
    planted = await desk.plant(case)
    counts = await desk.send(case, planted, json.dumps(orjson.loads(case.body), indent=3).encode())
    assert counts == {"settled": 1}
    assert (await standing(desk.house, planted))["status"] == case.status


@pytest.mark.parametrize(("provider", "name"), ALL, ids=lambda value: str(value))
async def test_an_example_about_nobody_moves_nothing(desk: Desk, provider: str, name: str) -> None:
    """Somebody else's, or of another installation: none of these references is ours."""
    body = EXAMPLES[provider][name]
    bystander = await plant(desk.house, desk.ada, provider, Known(10_000, "NGN", "bystander" + uuid4().hex, ("other",)))
    before = await standing(desk.house, bystander)
    if provider in BY_TOKEN:
        assert (await send(desk.house, PATHS.get(provider, provider), body)).status_code == 401
        path = f"{PATHS.get(provider, provider)}/{callback_token(str(uuid4()))}"
        news = name in ("account balance", "C2B confirmation")
        assert await sent(desk.house, provider, body, path=path) == (
            {"ignored": 1} if news else {"retried": 3, "dead_lettered": 1}
        )
    else:
        counts = await sent(desk.house, provider, body)
        counts.pop("retried", None)
        assert counts == {"malformed": 1} if "older contract" in name else counts == {"ignored": 1}
    assert await standing(desk.house, bystander) == before
    assert desk.providers.asked == []


async def test_a_webhook_of_monnifys_terminals_is_no_webhook_of_its_payments(desk: Desk) -> None:
    body = EXAMPLES["moniepoint"]["POS: V1_POS_TRANSFER_TRANSACTION"]
    headers = {
        "moniepoint-webhook-id": "1",
        "moniepoint-webhook-timestamp": "1756768399000",
        "moniepoint-webhook-signature": "c2lnbmF0dXJl",
    }
    assert (await send(desk.house, "moniepoint", body, headers)).status_code == 401


# Money that is not what was asked for


@pytest.mark.parametrize("case", COLLECTING, ids=str)
async def test_another_amount_completes_nothing(desk: Desk, case: Case) -> None:
    """Except where no answer names one: M-Pesa's query is bound by its prompt, whose callback does; C-Pay by our reference."""
    planted = await desk.plant(case, minor=case.known.minor + 100)
    counts = await desk.send(case, planted)
    assert counts == {"settled": 1}
    now = await standing(desk.house, planted)
    if case.provider == "cpay":
        assert (now["status"], now["paid_minor"]) == ("completed", case.known.minor + 100)
        return
    assert (now["status"], now["paid_minor"], now["journals"]) == ("under_review", 0, ["suspended"])
    assert now["attempt"] == "under_review"


@pytest.mark.parametrize("case", [case for case in COLLECTING if case.provider not in ("mpesa", "cpay")], ids=str)
async def test_another_currency_completes_nothing(desk: Desk, case: Case) -> None:
    planted = await desk.plant(case, currency="ZAR")
    await desk.send(case, planted)
    now = await standing(desk.house, planted)
    assert (now["status"], now["paid_minor"], now["journals"]) == ("under_review", 0, ["suspended"])


# Hints that the provider contradicts


def case_of(provider: str, example: str) -> Case:
    return next(case for case in CASES if (case.provider, case.example) == (provider, example))


CONTRADICTED: list[tuple[str, str, Says, str]] = [
    ("flutterwave", "charge.completed: successful", verified(status="pending"), "processing"),
    ("flutterwave", "charge.completed: successful", verified(status="failed"), "requires_action"),
    ("flutterwave", "charge.completed: successful", verified(amount=99), "under_review"),
    ("flutterwave", "charge.completed: successful", [("/verify", 500, {"status": "error"})], "requires_action"),
    ("flutterwave", "transfer.completed: successful", transferred(status="PENDING"), "processing"),
    ("flutterwave", "transfer.completed: failed", transferred(status="PENDING"), "processing"),
    ("flutterwave", "refund without an envelope", flutterwave_refund("completed"), "completed"),
    ("mpesa", "STK callback of success", queried(PROMPT, "4999"), "processing"),
    ("mpesa", "STK callback of success", queried(PROMPT, "1032"), "cancelled"),
    ("cpay", "callback with the expected members", OPEN, "requires_action"),
    ("cpay", "callback in the words of UAT", cpay_says("denied", "denied"), "failed"),
    ("vtpass", "transaction-update: delivered", requeried("transaction-update: delivered", status="pending"), "processing"),
    ("vtpass", "transaction-update: reversed", requeried("transaction-update: delivered", amount=50), "completed"),
    ("paystack", "refund.processed", paystack_refund("pending", 5_000), "completed"),
    ("paystack", "refund.failed", paystack_refund("processing", 20_000), "completed"),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "example", "says", "status"), CONTRADICTED)
async def test_a_hint_that_the_provider_contradicts_credits_nothing(
    desk: Desk, provider: str, example: str, says: Says, status: str
) -> None:
    case = case_of(provider, example)
    planted = await desk.plant(replace(case, says=says))
    before = await standing(desk.house, planted)
    await desk.send(case, planted)
    now = await standing(desk.house, planted)
    assert desk.providers.asked != []
    assert now["status"] == status
    assert (now["paid_minor"], now["refunded_minor"], now["refund"]) == (before["paid_minor"], 0, before["refund"])
    assert not {"collected", "refunded"} & set(now["journals"])


async def test_a_refund_made_elsewhere_is_taken_over_when_the_provider_confirms_it(desk: Desk) -> None:
    case = case_of("paystack", "refund.processed")
    planted = await desk.plant(replace(case, says=paystack_refund("processed", 5_000)), refund=None)
    assert (await desk.send(case, planted))["settled"] == 1
    now = await standing(desk.house, planted)
    assert (now["status"], now["refunded_minor"], now["refund"]) == ("partially_refunded", 5_000, "completed")
    again = await desk.send(case, planted)
    assert set(again) <= {"unchanged", "retried"}
    assert (await standing(desk.house, planted))["refunded_minor"] == 5_000


# The final one first, an older one after it


def in_place_of(provider: str, example: str, swaps: dict[str, str]) -> bytes:
    """The example with other words, such as the references of another's payment."""
    body = EXAMPLES[provider][example]
    for old, new in swaps.items():
        assert old.encode() in body, old
        body = body.replace(old.encode(), new.encode())
    return body


REORDERED = [
    ("stripe", "payment_intent.succeeded", [
        in_place_of("stripe", "payment_intent.processing", {"pi_3C": "pi_3A", "1000": "2000", '"eur"': '"usd"'}),
        in_place_of("stripe", "payment_intent.requires_action", {"pi_3E": "pi_3A"}),
        in_place_of("stripe", "payment_intent.payment_failed", {"pi_3B": "pi_3A"}),
        in_place_of("stripe", "payment_intent.canceled", {"pi_3D": "pi_3A"}),
        EXAMPLES["stripe"]["payment_intent.created"],
    ]),
    ("stripe", "checkout.session.completed", [
        in_place_of("stripe", "checkout.session.expired", {"cs_test_a2": "cs_test_a1"}),
        in_place_of("stripe", "checkout.session.completed, not yet paid", {"cs_test_a5": "cs_test_a1"}),
    ]),
    ("stripe", "refund.updated", [EXAMPLES["stripe"]["refund.created"], EXAMPLES["stripe"]["charge.refunded"]]),
    ("stripe", "charge.dispute.closed: lost", [EXAMPLES["stripe"]["charge.dispute.created"]]),
    ("paystack", "charge.dispute.resolve: lost", [
        EXAMPLES["paystack"]["charge.dispute.create"], EXAMPLES["paystack"]["charge.success by card"],
    ]),
    ("paystack", "transfer.reversed", [
        in_place_of("paystack", "transfer.success", {
            "acv_9ee55786-2323-4760-98e2-6380c9cb3f68": "1976435206", "860703114": "69123462",
            "TRF_v5tip3zx8nna9o78": "TRF_chs98y5rykjb47w", '"amount":100000': '"amount":200000',
        }),
    ]),
    ("moniepoint", "SUCCESSFUL_TRANSACTION", [
        in_place_of("moniepoint", "REJECTED_PAYMENT", {
            "MNFY|PAYREF|GENERATED|1687798434397393735": "MNFY|04|20211117112842|000170",
            "MNFY|85|20230626175354|041855": "MNFY|04|20211117112842|000170",
        }),
    ]),
    ("moniepoint", "REVERSED_DISBURSEMENT", [
        in_place_of("moniepoint", "SUCCESSFUL_DISBURSEMENT", {
            "MFDS|20210317032332|002431": "MFDS33920240513211815009133P47MKU",
            "ref1615947809303": "662d2dcf22132ea227db164e-1715631494637", '"amount":10,': '"amount":145708,',
        }),
    ]),
    ("standardbank_pay", "PAYMENT_SETTLED", [
        EXAMPLES["standardbank_pay"][f"PAYMENT_{word}"] for word in ("DECLINED", "EXPIRED", "CANCELLED")
    ]),
    ("mpesa", "STK callback of success", [
        in_place_of("mpesa", "STK callback of failure", {
            "ws_CO_21072024125243250722943992": PROMPT.ids[0], "f1e2-4b95-a71d-b30d3cdbb7a7942864": PROMPT.ids[1],
        }),
    ]),
    ("cpay", "callback with the expected members", [EXAMPLES["cpay"]["callback of a denial"]]),
    ("flutterwave", "charge.completed: successful", [EXAMPLES["flutterwave"]["charge.completed: failed"]]),
    ("vtpass", "transaction-update: reversed", [
        in_place_of("vtpass", "transaction-update: delivered", {'"amount":100': '"amount":50'}),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "final", "older"), REORDERED, ids=[f"{row[0]}: {row[1]}" for row in REORDERED])
async def test_an_older_example_after_the_final_one_moves_nothing_back(
    desk: Desk, provider: str, final: str, older: list[bytes]
) -> None:
    case = case_of(provider, final)
    planted = await desk.plant(case)
    assert (await desk.send(case, planted))["settled"] == 1
    ended = await standing(desk.house, planted)
    for body in older:
        counts = await desk.send(case, planted, body)
        assert set(counts) <= {"unchanged", "duplicate", "ignored"}, counts
        assert await standing(desk.house, planted) == ended


async def test_a_dispute_goes_its_way_from_the_payment_to_the_loss_and_is_won_late(desk: Desk) -> None:
    case = case_of("paystack", "charge.success by card")
    planted = await desk.plant(case)
    ways = []
    for example in ("charge.success by card", "charge.dispute.create", "charge.dispute.remind"):
        await desk.send(case, planted, EXAMPLES["paystack"][example])
        ways.append((await standing(desk.house, planted))["status"])
    assert ways == ["completed", "under_review", "under_review"]
    await desk.send(case, planted, EXAMPLES["paystack"]["charge.dispute.resolve: lost"])
    lost = await standing(desk.house, planted)
    assert (lost["status"], lost["journals"]) == ("reversed", ["collected", "reversed"])


# Odd shapes


ODD: list[tuple[str, str, dict[str, str], str, str]] = [
    # amounts as text
    ("paystack", "charge.success by card", {'"amount":10000': '"amount":"10000"'}, "settled", "completed"),
    ("paystack", "charge.success by bank transfer", {'"fees":375': '"fees":"375"'}, "settled", "completed"),
    ("moniepoint", "SUCCESSFUL_TRANSACTION", {'"amountPaid":3000,"totalP': '"amountPaid":"3000.00","totalP'}, "settled",
     "completed"),
    ("moniepoint", "SUCCESSFUL_TRANSACTION", {'"settlementAmount":"2990.00"': '"settlementAmount":2990.0'}, "settled",
     "completed"),
    ("mpesa", "STK callback of success", {'"Value": 1.00}': '"Value": "1.00"}'}, "settled", "completed"),
    ("mpesa", "STK callback of success", {'"ResultCode": 0': '"ResultCode": "0"'}, "settled", "completed"),
    ("mpesa", "reversal result of success", {'"Value":1.00': '"Value":"1.00"'}, "settled", "refunded"),
    ("flutterwave", "charge.completed: successful", {'"id":285959875': '"id":"285959875"'}, "settled", "completed"),
    # ids that are null or missing: only another name can find the payment
    ("paystack", "charge.success by card", {'"id":302961': '"id":null'}, "ignored", "requires_action"),
    ("paystack", "charge.success by card", {'"reference":"qTPrJoy9Bx"': '"reference":null'}, "malformed", "requires_action"),
    ("moniepoint", "SUCCESSFUL_TRANSACTION", {'"transactionReference"': '"formerReference"'}, "malformed", "requires_action"),
    ("moniepoint", "SUCCESSFUL_REFUND", {'"refundReference"': '"formerReference"'}, "malformed", "completed"),
    ("stripe", "payment_intent.succeeded", {'"id": "evt_3A"': '"id": null'}, "malformed", "requires_action"),
    ("stripe", "payment_intent.succeeded", {'"id": "pi_3A"': '"id": null'}, "ignored", "requires_action"),
    ("standardbank_pay", "PAYMENT_SETTLED", {'"event_id":"evt-sbp-1",': ""}, "malformed", "requires_action"),
    ("standardbank_pay", "PAYMENT_SETTLED", {'"amount_cents":15000,': ""}, "malformed", "requires_action"),
    ("mpesa", "STK callback of success", {'"CheckoutRequestID": "ws_CO_191220191020363925"': '"CheckoutRequestID": null'},
     "malformed", "requires_action"),
    ("flutterwave", "charge.completed: successful", {'"tx_ref":"Links-616626414629"': '"tx_ref":null'}, "malformed",
     "requires_action"),
    ("flutterwave", "charge.completed: successful", {'"id":285959875': '"id":null'}, "ignored", "requires_action"),
    ("vtpass", "transaction-update: delivered", {'"requestId"': '"formerId"'}, "ignored", "processing"),
    ("cpay", "callback with the expected members", {'"extTransactionId":"attcpay0000000000000000000001",': ""}, "settled",
     "completed"),  # the token names the attempt
    # null where a value is usual
    ("paystack", "charge.success by bank transfer", {'"requested_amount":25000': '"requested_amount":null'}, "settled",
     "completed"),
    ("stripe", "payment_intent.succeeded", {'"metadata": {\n        "payment_id": "x"\n      }': '"metadata": null'},
     "settled", "completed"),
    ("paystack", "charge.success by card", {'"currency":"NGN"': '"currency":null'}, "malformed", "requires_action"),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "example", "swaps", "outcome", "status"), ODD)
async def test_odd_shapes_end_as_they_should(
    desk: Desk, provider: str, example: str, swaps: dict[str, str], outcome: str, status: str
) -> None:
    case = case_of(provider, example)
    body = in_place_of(provider, example, swaps)
    assert body != case.body
    planted = await desk.plant(case)
    counts = await desk.send(case, planted, body)
    assert {word: many for word, many in counts.items() if word != "retried"} == {outcome: 1}
    assert (await standing(desk.house, planted))["status"] == status


async def test_an_event_without_an_id_of_its_own_is_known_by_our_reference_and_moves_once(desk: Desk) -> None:
    case = case_of("paystack", "charge.success by card")
    ours = "att" + uuid4().hex[:26]
    planted = await desk.plant(case, reference=ours, ids=())
    body = in_place_of("paystack", case.example, {'"id":302961': '"id":null', "qTPrJoy9Bx": ours})
    outcomes = [await desk.send(case, planted, body) for _ in range(3)]
    assert outcomes == [{"settled": 1}, {"unchanged": 1}, {"unchanged": 1}]
    now = await standing(desk.house, planted)
    assert (now["status"], now["journals"]) == ("completed", ["collected"])


# What comes to the URL of another order


@pytest.mark.parametrize("example", ["reversal result of success", "reversal result of failure"])
async def test_a_result_at_the_url_of_another_refund_moves_neither(desk: Desk, example: str) -> None:
    case = case_of("mpesa", example)
    other = refunding(
        replace(REVERSIBLE, reference="prompt-9", ids=("SKC82PACB9",)),
        Known(100, "KES", "reversal-9", ("AG_20211114_999999", "9999-4d5b-a5a0-4ba0")),
    )
    planted = await plant(desk.house, desk.ada, "mpesa", other)
    before = await standing(desk.house, planted)
    assert await desk.send(case, planted) == {"ignored": 1}
    assert await standing(desk.house, planted) == before


async def test_a_customers_own_payment_at_the_url_of_a_prompt_is_not_believed(desk: Desk) -> None:
    """Else whoever knows the URL could say so in a shape that nobody asks about."""
    case = replace(case_of("mpesa", "C2B confirmation"), says=queried(PROMPT, "0"))
    planted = await desk.plant(case)
    before = await standing(desk.house, planted)
    assert (await desk.send(case, planted)) == {"ignored": 1}
    assert await standing(desk.house, planted) == before
    assert desk.providers.asked == []
