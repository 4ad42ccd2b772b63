"""Every outcome of the simulator's magic table, through webhooks, queries and time, to its right end.

All payments live in one house at once. First the customers act and the webhooks come; then the clock is moved past the
first check, past each provider's session, and past the time after which a person has to look.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from payflow.gateway.contract import Collects
from tests.house import BODIES, House, Merchant, Urls, running_house
from tests.webhooks.desk import Impatient, MovableClock, steady

REQUIRES_ACTION, PROCESSING = "requires_action", "processing"
COMPLETED, FAILED, CANCELLED, EXPIRED, UNDER_REVIEW = "completed", "failed", "cancelled", "expired", "under_review"

# By provider and outcome: where the payment stands when the customer has acted and the webhooks were worked on, and its end.
#
# Paystack tells by webhook of success alone, has no cancelled or expired, and a reference that it does not know was never
# opened. An M-Pesa prompt cannot be asked about without its id, "still processing" is never final, and its callback proves
# nothing unless a query confirms it. A Stripe session is ended by us when its time is over, which proves that nothing was
# paid; an order whose answer was lost has no id to ask with. Standard Bank Pay tells every end
# by webhook, which brings the id too. Moniepoint tells by webhook of money alone, and knows our reference.
# C-Pay is asked by our reference, also after a lost answer; an open request may be paid as long as C-Pay keeps it, and "not
# found" may mean the merchant. Flutterwave's webhooks are hints that a query confirms, a failed try leaves its page open, and we
# close the page when its time is over.
ENDS: dict[str, dict[str, tuple[str, str]]] = {
    "paystack": {
        "success": (COMPLETED, COMPLETED),
        "decline": (REQUIRES_ACTION, FAILED),
        "insufficient_funds": (REQUIRES_ACTION, FAILED),
        "cancelled": (REQUIRES_ACTION, EXPIRED),
        "expired": (REQUIRES_ACTION, EXPIRED),
        "silent": (REQUIRES_ACTION, EXPIRED),
        "no_answer": (REQUIRES_ACTION, UNDER_REVIEW),
        "timeout_after_charging": (COMPLETED, COMPLETED),
        "late_success_after_failure": (COMPLETED, COMPLETED),
        "duplicate": (COMPLETED, COMPLETED),
        "out_of_order": (COMPLETED, COMPLETED),
        "wrong_amount": (UNDER_REVIEW, UNDER_REVIEW),
        "wrong_currency": (UNDER_REVIEW, UNDER_REVIEW),
        "bad_signature": (REQUIRES_ACTION, COMPLETED),
        "slow": (COMPLETED, COMPLETED),
        "server_error": (PROCESSING, EXPIRED),
        "server_error_after_charging": (COMPLETED, COMPLETED),
        "refuse": (FAILED, FAILED),
        "rate_limited": (FAILED, FAILED),
        "html_error": (PROCESSING, EXPIRED),
        "callback_before_ack": (COMPLETED, COMPLETED),
        "webhook_only": (COMPLETED, COMPLETED),
        "query_only": (REQUIRES_ACTION, COMPLETED),
        "dropped_after_charging": (COMPLETED, COMPLETED),
        "fee_on_top": (COMPLETED, COMPLETED),
        "asynchronous": (COMPLETED, COMPLETED),
        "asynchronous_failure": (REQUIRES_ACTION, FAILED),
    },
    "mpesa": {
        "success": (COMPLETED, COMPLETED),
        "decline": (FAILED, FAILED),
        "insufficient_funds": (FAILED, FAILED),
        "cancelled": (CANCELLED, CANCELLED),
        "expired": (EXPIRED, EXPIRED),
        "silent": (REQUIRES_ACTION, UNDER_REVIEW),
        "no_answer": (REQUIRES_ACTION, UNDER_REVIEW),
        "timeout_after_charging": (COMPLETED, COMPLETED),
        "late_success_after_failure": (COMPLETED, COMPLETED),
        "duplicate": (COMPLETED, COMPLETED),
        "out_of_order": (COMPLETED, COMPLETED),
        "wrong_amount": (UNDER_REVIEW, UNDER_REVIEW),
        "slow": (COMPLETED, COMPLETED),
        "server_error": (PROCESSING, UNDER_REVIEW),
        "server_error_after_charging": (COMPLETED, COMPLETED),
        "refuse": (FAILED, FAILED),
        "rate_limited": (FAILED, FAILED),
        "html_error": (PROCESSING, UNDER_REVIEW),
        "callback_before_ack": (COMPLETED, COMPLETED),
        "webhook_only": (REQUIRES_ACTION, UNDER_REVIEW),
        "query_only": (REQUIRES_ACTION, COMPLETED),
        "dropped_after_charging": (COMPLETED, COMPLETED),
    },
    "stripe": {
        "success": (COMPLETED, COMPLETED),
        "decline": (REQUIRES_ACTION, FAILED),
        "insufficient_funds": (REQUIRES_ACTION, FAILED),
        "cancelled": (REQUIRES_ACTION, EXPIRED),
        "expired": (EXPIRED, EXPIRED),
        "silent": (REQUIRES_ACTION, EXPIRED),
        "no_answer": (REQUIRES_ACTION, EXPIRED),
        "timeout_after_charging": (COMPLETED, COMPLETED),
        "late_success_after_failure": (COMPLETED, COMPLETED),
        "duplicate": (COMPLETED, COMPLETED),
        "out_of_order": (COMPLETED, COMPLETED),
        "wrong_amount": (UNDER_REVIEW, UNDER_REVIEW),
        "wrong_currency": (UNDER_REVIEW, UNDER_REVIEW),
        "bad_signature": (REQUIRES_ACTION, COMPLETED),
        "slow": (COMPLETED, COMPLETED),
        "server_error": (PROCESSING, UNDER_REVIEW),
        "server_error_after_charging": (COMPLETED, COMPLETED),
        "refuse": (FAILED, FAILED),
        "rate_limited": (FAILED, FAILED),
        "html_error": (PROCESSING, UNDER_REVIEW),
        "callback_before_ack": (COMPLETED, COMPLETED),
        "webhook_only": (COMPLETED, COMPLETED),
        "query_only": (REQUIRES_ACTION, COMPLETED),
        "dropped_after_charging": (COMPLETED, COMPLETED),
        "asynchronous": (COMPLETED, COMPLETED),
        "asynchronous_failure": (FAILED, FAILED),
    },
    "standardbank_pay": {
        "success": (COMPLETED, COMPLETED),
        "decline": (FAILED, FAILED),
        "insufficient_funds": (FAILED, FAILED),
        "cancelled": (CANCELLED, CANCELLED),
        "expired": (EXPIRED, EXPIRED),
        "silent": (REQUIRES_ACTION, EXPIRED),
        "no_answer": (REQUIRES_ACTION, UNDER_REVIEW),
        "timeout_after_charging": (COMPLETED, COMPLETED),
        "late_success_after_failure": (COMPLETED, COMPLETED),
        "duplicate": (COMPLETED, COMPLETED),
        "out_of_order": (COMPLETED, COMPLETED),
        "wrong_amount": (UNDER_REVIEW, UNDER_REVIEW),
        "wrong_currency": (UNDER_REVIEW, UNDER_REVIEW),
        "bad_signature": (REQUIRES_ACTION, COMPLETED),
        "slow": (COMPLETED, COMPLETED),
        "server_error": (PROCESSING, UNDER_REVIEW),
        "server_error_after_charging": (COMPLETED, COMPLETED),
        "refuse": (FAILED, FAILED),
        "rate_limited": (FAILED, FAILED),
        "html_error": (PROCESSING, UNDER_REVIEW),
        "callback_before_ack": (COMPLETED, COMPLETED),
        "webhook_only": (COMPLETED, COMPLETED),
        "query_only": (REQUIRES_ACTION, COMPLETED),
        "dropped_after_charging": (COMPLETED, COMPLETED),
        "asynchronous": (COMPLETED, COMPLETED),
        "asynchronous_failure": (FAILED, FAILED),
    },
    "moniepoint": {
        "success": (COMPLETED, COMPLETED),
        "decline": (REQUIRES_ACTION, FAILED),
        "insufficient_funds": (REQUIRES_ACTION, FAILED),
        "cancelled": (REQUIRES_ACTION, CANCELLED),
        "expired": (REQUIRES_ACTION, EXPIRED),
        "silent": (REQUIRES_ACTION, EXPIRED),
        "no_answer": (REQUIRES_ACTION, UNDER_REVIEW),
        "timeout_after_charging": (COMPLETED, COMPLETED),
        "late_success_after_failure": (COMPLETED, COMPLETED),
        "duplicate": (COMPLETED, COMPLETED),
        "out_of_order": (COMPLETED, COMPLETED),
        "wrong_amount": (UNDER_REVIEW, UNDER_REVIEW),
        "wrong_currency": (UNDER_REVIEW, UNDER_REVIEW),
        "bad_signature": (REQUIRES_ACTION, COMPLETED),
        "slow": (COMPLETED, COMPLETED),
        "server_error": (PROCESSING, EXPIRED),
        "server_error_after_charging": (COMPLETED, COMPLETED),
        "refuse": (FAILED, FAILED),
        "rate_limited": (FAILED, FAILED),
        "html_error": (PROCESSING, EXPIRED),
        "callback_before_ack": (COMPLETED, COMPLETED),
        "webhook_only": (COMPLETED, COMPLETED),
        "query_only": (REQUIRES_ACTION, COMPLETED),
        "dropped_after_charging": (COMPLETED, COMPLETED),
        "asynchronous": (COMPLETED, COMPLETED),
        "asynchronous_failure": (REQUIRES_ACTION, FAILED),
    },
    "cpay": {
        "success": (COMPLETED, COMPLETED),
        "decline": (FAILED, FAILED),
        "insufficient_funds": (FAILED, FAILED),
        "cancelled": (CANCELLED, CANCELLED),
        "expired": (EXPIRED, EXPIRED),
        "silent": (REQUIRES_ACTION, UNDER_REVIEW),
        "no_answer": (REQUIRES_ACTION, UNDER_REVIEW),
        "timeout_after_charging": (COMPLETED, COMPLETED),
        "late_success_after_failure": (COMPLETED, COMPLETED),
        "duplicate": (COMPLETED, COMPLETED),
        "out_of_order": (COMPLETED, COMPLETED),
        "slow": (COMPLETED, COMPLETED),
        "server_error": (PROCESSING, UNDER_REVIEW),
        "server_error_after_charging": (COMPLETED, COMPLETED),
        "refuse": (FAILED, FAILED),
        "rate_limited": (FAILED, FAILED),
        "html_error": (PROCESSING, UNDER_REVIEW),
        "callback_before_ack": (COMPLETED, COMPLETED),
        "webhook_only": (REQUIRES_ACTION, UNDER_REVIEW),
        "query_only": (REQUIRES_ACTION, COMPLETED),
        "dropped_after_charging": (COMPLETED, COMPLETED),
    },
    "flutterwave": {
        "success": (COMPLETED, COMPLETED),
        "decline": (REQUIRES_ACTION, FAILED),
        "insufficient_funds": (REQUIRES_ACTION, FAILED),
        "cancelled": (REQUIRES_ACTION, EXPIRED),
        "expired": (REQUIRES_ACTION, EXPIRED),
        "silent": (REQUIRES_ACTION, EXPIRED),
        "no_answer": (REQUIRES_ACTION, UNDER_REVIEW),
        "timeout_after_charging": (COMPLETED, COMPLETED),
        "late_success_after_failure": (COMPLETED, COMPLETED),
        "duplicate": (COMPLETED, COMPLETED),
        "out_of_order": (COMPLETED, COMPLETED),
        "wrong_amount": (UNDER_REVIEW, UNDER_REVIEW),
        "wrong_currency": (UNDER_REVIEW, UNDER_REVIEW),
        "bad_signature": (REQUIRES_ACTION, COMPLETED),
        "slow": (COMPLETED, COMPLETED),
        "server_error": (PROCESSING, EXPIRED),
        "server_error_after_charging": (COMPLETED, COMPLETED),
        "refuse": (FAILED, FAILED),
        "rate_limited": (FAILED, FAILED),
        "html_error": (PROCESSING, EXPIRED),
        "callback_before_ack": (COMPLETED, COMPLETED),
        "webhook_only": (REQUIRES_ACTION, UNDER_REVIEW),
        "query_only": (REQUIRES_ACTION, COMPLETED),
        "dropped_after_charging": (COMPLETED, COMPLETED),
        "fee_on_top": (COMPLETED, COMPLETED),
        "asynchronous": (COMPLETED, COMPLETED),
        "asynchronous_failure": (REQUIRES_ACTION, FAILED),
    },
}
CASES = [(provider, outcome) for provider, outcomes in ENDS.items() for outcome in outcomes]
NEVER_CHARGED = {"server_error", "refuse", "rate_limited", "html_error"}
ODD_MONEY = {"wrong_amount", "wrong_currency"}

PAST = {
    "the first check": timedelta(seconds=61),
    "the life of an M-Pesa prompt": timedelta(minutes=10),
    "the life of a Stripe session": timedelta(minutes=70),
    "the life of a Paystack page": timedelta(hours=24, minutes=10),
    "the time to wait for a final answer": timedelta(hours=49),
}


@dataclass
class Played:
    """One payment from the first answer to its end."""

    answered: str
    told: str = ""
    end: dict[str, Any] = field(default_factory=dict)
    journals: list[dict[str, Any]] = field(default_factory=list)
    charge: dict[str, Any] = field(default_factory=dict)


def amount_of(provider: str, code: int | None) -> str:
    """The last three digits of the minor unit, or of whole shillings, choose."""
    number = 5_000 + (code or 0)
    return str(number) if provider == "mpesa" else f"{number / 100:.2f}"


async def everything(house: House) -> Any:
    """What changes while anything is under way."""
    control = await house.simulator.get("/_control/webhooks")
    requests = await house.simulator.get("/_control/requests")
    rows = await house.rows("SELECT id, version, check_count, last_cause FROM transactions ORDER BY id")
    dead = await house.rows("SELECT count(*) AS many FROM dead_letters")
    tries = sum(row["attempts"] for row in control.json()["webhooks"])
    return tries, requests.json()["count"], [tuple(row.values()) for row in rows], dead[0]["many"]


async def start(house: House, ada: Merchant, codes: dict[str, int | None]) -> dict[tuple[str, str], dict[str, Any]]:
    import asyncio

    async def one(provider: str, outcome: str) -> dict[str, Any]:
        return await ada.pay(provider, amount=amount_of(provider, codes[outcome]))

    payments = await asyncio.gather(*(one(*case) for case in CASES))
    return dict(zip(CASES, payments, strict=True))


@pytest.fixture(scope="module")
async def played(urls: Urls) -> AsyncIterator[dict[tuple[str, str], Played]]:
    clock = MovableClock()
    async with running_house(
        urls,
        clock=clock,
        transport=lambda inner: Impatient(inner, 1.0),
        # The simulator stays in the present while our clock is moved, and shall still believe what we sign.
        simulator={
            "slow_seconds": 0.3,
            "customer_delay_seconds": 0.1,
            "standardbank_pay_window_seconds": 10_000_000,
        },
        access_token_seconds=10_000_000,
        ladder_seconds=(0.2, 0.2),
        overtaken_delays_seconds=(0.2, 0.2),
    ) as house:
        ada = await house.merchant()
        table = (await house.simulator.get("/_control/outcomes")).json()["outcomes"]
        payments = await start(house, ada, {row["outcome"]: row["amount_ends_with"] for row in table})
        found = {case: Played(payment["status"]) for case, payment in payments.items()}
        await steady(lambda: everything(house), seconds=1.0)
        for case, payment in payments.items():
            found[case].told = (await ada.payment(payment["id"]))["status"]
        for ahead in PAST.values():
            clock.ahead = ahead
            await steady(lambda: everything(house), seconds=0.6)
        charges = (await house.simulator.get("/_control/charges")).json()["charges"]
        for case, payment in payments.items():
            one = found[case]
            one.end = await ada.payment(payment["id"])
            reference = one.end["attempts"][0]["reference"]
            mine = [row for row in charges if row["provider"] == case[0] and reference.endswith(row["reference"])]
            assert len(mine) == 1
            one.charge = mine[0]
            one.journals = await house.rows(
                """
                SELECT j.kind, a.code, e.currency, e.amount_minor FROM ledger_journals j
                JOIN ledger_entries e ON e.journal_id = j.id JOIN ledger_accounts a ON a.id = e.account_id
                WHERE j.transaction_id = $1::text::uuid ORDER BY a.code
                """,
                payment["id"],
            )
        yield found


async def test_the_table_holds_every_outcome_of_the_simulator(house: House) -> None:
    registry = house.services.registry
    assert set(ENDS) == set(BODIES) == {name for name in registry.names if isinstance(registry.get(name), Collects)}
    rows = (await house.simulator.get("/_control/outcomes")).json()["outcomes"]
    for provider in BODIES:
        offered = {row["outcome"] for row in rows if provider in row["providers"] and "collect" in row["operations"]}
        assert offered == set(ENDS[provider])


@pytest.mark.parametrize(("provider", "outcome"), CASES)
async def test_an_outcome_stands_where_it_should_once_the_webhooks_came(
    played: dict[tuple[str, str], Played], provider: str, outcome: str
) -> None:
    assert played[provider, outcome].told == ENDS[provider][outcome][0]


@pytest.mark.parametrize(("provider", "outcome"), CASES)
async def test_an_outcome_comes_to_its_right_end(
    played: dict[tuple[str, str], Played], provider: str, outcome: str
) -> None:
    assert played[provider, outcome].end["status"] == ENDS[provider][outcome][1]


@pytest.mark.parametrize(("provider", "outcome"), CASES)
async def test_an_outcome_charges_once_at_most_and_credits_what_was_paid_once(
    played: dict[tuple[str, str], Played], provider: str, outcome: str
) -> None:
    one = played[provider, outcome]
    charge, payment = one.charge, one.end
    assert (charge["submissions"], charge["charges"]) == (1, 0 if outcome in NEVER_CHARGED else 1)
    posted = {(line["kind"], line["code"], line["currency"]): line["amount_minor"] for line in one.journals}
    assert len(posted) == len(one.journals)
    if payment["status"] == COMPLETED:
        taken, currency = charge["money_taken_minor"], payment["currency"]
        assert payment["paid_minor"] == taken
        assert taken == payment["amount_minor"] + (payment["fee_minor"] if outcome == "fee_on_top" else 0)
        assert posted["collected", "sales", currency] == -taken
        assert {kind for kind, _, _ in posted} == {"collected"}
    elif outcome in ODD_MONEY:
        attempt = payment["attempts"][0]
        assert payment["paid_minor"] == 0
        assert attempt["status"] == "under_review"
        assert posted["suspended", "suspense", attempt["paid_currency"]] == -charge["money_taken_minor"]
        assert {kind for kind, _, _ in posted} == {"suspended"}
    else:
        assert posted == {}
        assert payment["paid_minor"] == 0
    assert sum(line["amount_minor"] for line in one.journals) == 0


@pytest.mark.parametrize(("provider", "outcome"), CASES)
async def test_an_outcome_is_told_without_a_gap_and_ended_once(
    played: dict[tuple[str, str], Played], provider: str, outcome: str
) -> None:
    payment = played[provider, outcome].end
    events = [(event["sequence"], event["type"]) for event in payment["timeline"]]
    assert [sequence for sequence, _ in events] == list(range(1, payment["version"] + 1))
    names = [name for _, name in events]
    assert names[0] == "payment.initiated"
    assert names.count(f"payment.{payment['status']}") == 1
    assert names[-1] == f"payment.{payment['status']}"
    assert payment["timeline"][-1]["status"] == payment["status"]


async def test_a_declined_page_ends_with_the_reason_of_the_decline(played: dict[tuple[str, str], Played]) -> None:
    for provider in ("paystack", "mpesa", "stripe"):
        assert played[provider, "insufficient_funds"].end["failure"]["code"] == "insufficient_funds"


async def test_a_fee_on_top_is_posted_apart(played: dict[tuple[str, str], Played]) -> None:
    one = played["paystack", "fee_on_top"]
    fees = [line["amount_minor"] for line in one.journals if line["code"] == "provider_fees"]
    assert fees == [one.end["fee_minor"]]
    assert one.end["fee_minor"] > 0
