"""Every outcome of the simulator for refunds, at every provider that refunds, to the right end of refund and payment.

All refunds live in one house at once, as the payments of `test_outcomes` do: first the webhooks come, then the clock is moved
past the first check, past the time after which an order is known to have been lost, and past that after which a person looks.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from payflow.gateway.contract import Refunds
from payflow.simulator.outcomes import OUTCOMES, supports
from tests.house import House, Merchant, Urls, running_house
from tests.webhooks.desk import Impatient, MovableClock, steady
from tests.webhooks.test_outcomes import everything

COMPLETED, FAILED, PROCESSING, UNDER_REVIEW = "completed", "failed", "processing", "under_review"

# By outcome: where the refund stands once the webhooks came, and its end. An order that was answered by an error may have been
# taken; no provider's list proves that it never was, so a person looks.
USUAL: dict[str, tuple[str, str]] = {
    "success": (COMPLETED, COMPLETED),
    "decline": (FAILED, FAILED),
    "silent": (PROCESSING, UNDER_REVIEW),
    "timeout_after_charging": (COMPLETED, COMPLETED),
    "duplicate": (COMPLETED, COMPLETED),
    "slow": (COMPLETED, COMPLETED),
    "server_error": (PROCESSING, UNDER_REVIEW),
    "server_error_after_charging": (COMPLETED, COMPLETED),
    "refuse": (FAILED, FAILED),
    "rate_limited": (FAILED, FAILED),
    "html_error": (PROCESSING, UNDER_REVIEW),
    "query_only": (PROCESSING, COMPLETED),
    "dropped_after_charging": (COMPLETED, COMPLETED),
    "late_failure": (FAILED, FAILED),
}
# Stripe's first answer tells the end. A reversal at M-Pesa is told once and stays. Paystack may wait for bank details.
ENDS: dict[str, dict[str, tuple[str, str]]] = {
    "paystack": {**USUAL, "needs_attention": (PROCESSING, UNDER_REVIEW)},
    "mpesa": {**USUAL, "late_failure": (COMPLETED, COMPLETED)},
    "stripe": {**USUAL, "query_only": (COMPLETED, COMPLETED)},
    "moniepoint": USUAL,
    "flutterwave": USUAL,
}
CASES = [(provider, outcome) for provider, outcomes in ENDS.items() for outcome in outcomes]
NEVER_TAKEN = {"server_error", "refuse", "rate_limited", "html_error"}

# Of each payment a part is given back, where the provider can do that; none of these amounts chooses an outcome.
AMOUNT, PART = "500.00", "200.00"
WHOLE_ONLY = {"mpesa"}

PAST = {
    "the first check": timedelta(seconds=61),
    "the time after which an unknown order was never received": timedelta(minutes=20),
    "the time of daily questions": timedelta(days=3),
    "the time to wait for a final answer": timedelta(days=16),
}


@dataclass
class Played:
    """One refund from the first answer to its end."""

    answered: dict[str, Any]
    told: str = ""
    end: dict[str, Any] = field(default_factory=dict)
    payment: dict[str, Any] = field(default_factory=dict)
    journals: list[dict[str, Any]] = field(default_factory=list)
    charge: dict[str, Any] = field(default_factory=dict)


async def refunds_of_one_provider(
    house: House, ada: Merchant, provider: str, outcomes: list[str]
) -> dict[tuple[str, str], Played]:
    """The payments at once, the refunds one by one: an outcome is chosen for the next order alone."""
    started = await asyncio.gather(*(ada.pay(provider, amount=AMOUNT) for _ in outcomes))
    found: dict[tuple[str, str], Played] = {}
    for outcome, payment in zip(outcomes, started, strict=True):
        await house.until(ada, payment["id"], "completed", seconds=30)
        await house.outcome(provider, outcome, operation="refund", times=1)
        body = {} if provider in WHOLE_ONLY else {"amount": PART}
        answer = await ada.post(f"/payments/{payment['id']}/refund", key=str(uuid4()), json=body)
        assert answer.status_code == 201, (provider, outcome, answer.text)
        found[provider, outcome] = Played(answer.json())
    return found


async def look(house: House) -> Any:
    refunds = await house.rows("SELECT * FROM refunds ORDER BY 1")
    return await everything(house), [tuple(row.values()) for row in refunds]


@pytest.fixture(scope="module")
async def played(urls: Urls) -> AsyncIterator[dict[tuple[str, str], Played]]:
    clock = MovableClock()
    async with running_house(
        urls,
        clock=clock,
        transport=lambda inner: Impatient(inner, 1.0),
        simulator={"slow_seconds": 0.3, "customer_delay_seconds": 0.1},
        access_token_seconds=10_000_000,
        ladder_seconds=(0.2, 0.2),
        overtaken_delays_seconds=(0.2, 0.2),
    ) as house:
        ada = await house.merchant()
        outcomes: dict[str, list[str]] = {}
        for provider, outcome in CASES:
            outcomes.setdefault(provider, []).append(outcome)
        parts = await asyncio.gather(*(refunds_of_one_provider(house, ada, *item) for item in outcomes.items()))
        found = {case: one for part in parts for case, one in part.items()}
        await steady(lambda: look(house), seconds=1.0)
        for one in found.values():
            one.told = (await refund_of(ada, one))["status"]
        for ahead in PAST.values():
            clock.ahead = ahead
            await steady(lambda: look(house), seconds=0.6)
        charges = (await house.simulator.get("/_control/charges")).json()["charges"]
        for (provider, _), one in found.items():
            one.end = await refund_of(ada, one)
            one.payment = await ada.payment(one.answered["payment_id"])
            reference = one.payment["attempts"][0]["reference"]
            (one.charge,) = [
                row for row in charges if row["provider"] == provider and reference.endswith(row["reference"])
            ]
            one.journals = await house.rows(
                """
                SELECT j.id::text, j.kind, a.code, e.amount_minor FROM ledger_journals j
                JOIN ledger_entries e ON e.journal_id = j.id JOIN ledger_accounts a ON a.id = e.account_id
                WHERE j.transaction_id = $1::text::uuid ORDER BY a.code
                """,
                one.payment["id"],
            )
        yield found


async def refund_of(ada: Merchant, one: Played) -> dict[str, Any]:
    path = f"/payments/{one.answered['payment_id']}/refunds/{one.answered['id']}"
    return dict((await ada.get(path)).json())


async def test_the_table_holds_every_outcome_at_every_provider_that_refunds(house: House) -> None:
    registry = house.services.registry
    assert set(ENDS) == {name for name in registry.names if isinstance(registry.get(name), Refunds)}
    for provider, outcomes in ENDS.items():
        assert set(outcomes) == {outcome for outcome in OUTCOMES if supports(provider, outcome, "refund")}, provider


@pytest.mark.parametrize(("provider", "outcome"), CASES)
async def test_a_refund_stands_where_it_should_once_the_webhooks_came(
    played: dict[tuple[str, str], Played], provider: str, outcome: str
) -> None:
    assert played[provider, outcome].told == ENDS[provider][outcome][0]


@pytest.mark.parametrize(("provider", "outcome"), CASES)
async def test_a_refund_and_its_payment_come_to_their_right_end(
    played: dict[tuple[str, str], Played], provider: str, outcome: str
) -> None:
    one, end = played[provider, outcome], ENDS[provider][outcome][1]
    assert one.end["status"] == end
    assert (one.end["failure"] is not None) == (end == FAILED)
    assert len(one.payment["refunds"]) == 1
    back = one.end["amount_minor"] if end == COMPLETED else 0
    whole = COMPLETED if not back else "refunded" if provider in WHOLE_ONLY else "partially_refunded"
    assert (one.payment["status"], one.payment["refunded_minor"]) == (whole, back)
    assert one.payment["paid_minor"] == one.payment["amount_minor"]


@pytest.mark.parametrize(("provider", "outcome"), CASES)
async def test_a_refund_is_ordered_once_and_posts_what_went_back_once(
    played: dict[tuple[str, str], Played], provider: str, outcome: str
) -> None:
    one = played[provider, outcome]
    charge, amount = one.charge, one.end["amount_minor"]
    assert (charge["submissions"], charge["refund_submissions"]) == (1, 1)
    assert charge["refunded_minor"] in (0, amount)
    if outcome in NEVER_TAKEN or one.end["status"] == FAILED:
        assert charge["refunded_minor"] == 0
    if one.end["status"] == COMPLETED:
        assert charge["refunded_minor"] == amount
    kinds = sorted({line["id"]: line["kind"] for line in one.journals}.values())
    late = outcome in ("late_failure", "decline") and "refund_failed" in kinds  # it had completed before
    went = ["refunded"] if one.end["status"] == COMPLETED else ["refund_failed", "refunded"] if late else []
    assert kinds == ["collected", *went]
    sales = -sum(line["amount_minor"] for line in one.journals if line["code"] == "sales")
    assert sales == one.payment["amount_minor"] - one.payment["refunded_minor"]
    assert sum(line["amount_minor"] for line in one.journals) == 0


@pytest.mark.parametrize(("provider", "outcome"), CASES)
async def test_a_refund_is_told_without_a_gap_and_ended_once(
    played: dict[tuple[str, str], Played], provider: str, outcome: str
) -> None:
    one = played[provider, outcome]
    timeline = one.payment["timeline"]
    assert [event["sequence"] for event in timeline] == list(range(1, one.payment["version"] + 1))
    told = [event["type"] for event in timeline if event["type"].startswith("refund.")]
    assert told[0] == "refund.processing"
    assert told[-1] == f"refund.{one.end['status']}"
    assert told.count("refund.completed") <= 1
    assert told.count("refund.failed") <= 1


async def test_a_refund_that_fails_late_was_told_as_completed_before(played: dict[tuple[str, str], Played]) -> None:
    for provider in ("paystack", "stripe", "moniepoint", "flutterwave"):
        told = [event["type"] for event in played[provider, "late_failure"].payment["timeline"]]
        told = told[told.index("refund.processing") :]
        # Who is told by hints may be asked only when it has failed already.
        overtaken = provider in ("paystack", "flutterwave") and told == ["refund.processing", "refund.failed"]
        assert overtaken or told == ["refund.processing", "refund.completed", "refund.failed"], provider


async def test_a_refund_that_waits_for_somebody_says_so(played: dict[tuple[str, str], Played]) -> None:
    events = played["paystack", "needs_attention"].payment["timeline"]
    assert [event["data"]["attention"] for event in events if "attention" in event["data"]]
