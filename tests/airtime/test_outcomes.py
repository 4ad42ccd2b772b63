"""Every outcome of the simulator for a purchase, through the answer, webhooks, queries and time, to its right end.

All purchases live in one house at once, and are paid from one wallet. First the network acts and the webhooks come; then the
clock is moved past the first check, past the time a purchase is asked about, and past the time after which a person looks.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from tests.airtime.desk import balanced, bought, holds, phone, posted, purchase_of, rich, wallet
from tests.house import House, Urls, running_house
from tests.webhooks.desk import Impatient, MovableClock, steady
from tests.webhooks.test_outcomes import everything

PROCESSING, COMPLETED, FAILED = "processing", "completed", "failed"
UNDER_REVIEW, REVERSED = "under_review", "reversed"

# Where the purchase stands once the network has acted and the webhooks were worked on, its end, and what became of the hold.
# VTPass tells nothing of what is delivered at once; its webhooks prove nothing and make us ask; an id that it does not know
# may be on its way. What nobody can say stays held until a person decides.
ENDS = {
    "success": (COMPLETED, COMPLETED, "captured"),
    "decline": (FAILED, FAILED, "released"),
    "silent": (PROCESSING, UNDER_REVIEW, "held"),
    "timeout_after_charging": (PROCESSING, COMPLETED, "captured"),
    "duplicate": (COMPLETED, COMPLETED, "captured"),
    "wrong_amount": (UNDER_REVIEW, UNDER_REVIEW, "held"),
    "slow": (COMPLETED, COMPLETED, "captured"),
    "server_error": (PROCESSING, UNDER_REVIEW, "held"),
    "server_error_after_charging": (PROCESSING, COMPLETED, "captured"),
    "refuse": (FAILED, FAILED, "released"),
    "rate_limited": (PROCESSING, UNDER_REVIEW, "held"),
    "html_error": (PROCESSING, UNDER_REVIEW, "held"),
    "webhook_only": (PROCESSING, UNDER_REVIEW, "held"),
    "query_only": (PROCESSING, COMPLETED, "captured"),
    "dropped_after_charging": (PROCESSING, COMPLETED, "captured"),
    "asynchronous": (COMPLETED, COMPLETED, "captured"),
    "asynchronous_failure": (FAILED, FAILED, "released"),
    "late_failure": (REVERSED, REVERSED, "captured"),
}
NEVER_CHARGED = {"server_error", "refuse", "rate_limited", "html_error"}
JOURNALS = {
    COMPLETED: {"held", "captured"},
    FAILED: {"held", "released"},
    UNDER_REVIEW: {"held"},
    REVERSED: {"held", "captured", "returned"},
}
PAST = (timedelta(seconds=61), timedelta(minutes=10), timedelta(hours=24, minutes=10), timedelta(hours=49))
FUNDED = 1_000_000


@dataclass
class Played:
    """One purchase from the first answer to its end."""

    answered: str
    told: str = ""
    end: dict[str, Any] = field(default_factory=dict)
    holds: list[str] = field(default_factory=list)
    journals: dict[str, dict[str, int]] = field(default_factory=dict)
    charge: dict[str, Any] = field(default_factory=dict)


@dataclass
class Stage:
    house: House
    cases: dict[str, Played]
    wallet: tuple[int, int]


@pytest.fixture(scope="module")
async def stage(urls: Urls) -> AsyncIterator[Stage]:
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
        ada = await rich(house, FUNDED)
        table = (await house.simulator.get("/_control/outcomes")).json()["outcomes"]
        codes = {row["outcome"]: row["amount_ends_with"] or 0 for row in table}
        # The last three digits of the naira choose.
        purchases = dict(
            zip(
                ENDS,
                await asyncio.gather(
                    *(
                        bought(ada, amount=5_000 + codes[each], phone=phone(30_000_000 + n))
                        for n, each in enumerate(ENDS)
                    )
                ),
                strict=True,
            )
        )
        found = {name: Played(purchase["status"]) for name, purchase in purchases.items()}
        await steady(lambda: everything(house), seconds=1.0)
        for name, purchase in purchases.items():
            found[name].told = (await purchase_of(ada, purchase["id"]))["status"]
        for ahead in PAST:
            clock.ahead = ahead
            await steady(lambda: everything(house), seconds=0.6)
        charges = (await house.simulator.get("/_control/charges")).json()["charges"]
        for name, purchase in purchases.items():
            one = found[name]
            one.end = await purchase_of(ada, purchase["id"])
            one.holds = await holds(house, purchase["id"])
            one.journals = await posted(house, purchase["id"])
            mine = [row for row in charges if row["reference"].endswith(one.end["attempts"][0]["reference"])]
            assert len(mine) == 1
            one.charge = mine[0]
        yield Stage(house, found, await wallet(house, ada))


async def test_the_table_holds_every_outcome_of_a_purchase(stage: Stage) -> None:
    rows = (await stage.house.simulator.get("/_control/outcomes")).json()["outcomes"]
    offered = {row["outcome"] for row in rows if "vtpass" in row["providers"] and "purchase" in row["operations"]}
    assert offered == set(ENDS)


@pytest.mark.parametrize("outcome", ENDS)
async def test_an_outcome_comes_to_its_right_end(stage: Stage, outcome: str) -> None:
    one, (told, end, hold) = stage.cases[outcome], ENDS[outcome]
    assert (one.told, one.end["status"], one.holds) == (told, end, [hold])


@pytest.mark.parametrize("outcome", ENDS)
async def test_an_outcome_is_sent_once_and_posted_once(stage: Stage, outcome: str) -> None:
    one = stage.cases[outcome]
    assert (one.charge["submissions"], one.charge["charges"]) == (1, 0 if outcome in NEVER_CHARGED else 1)
    assert set(one.journals) == JOURNALS[one.end["status"]]
    minor = one.end["amount_minor"]
    assert one.journals["held"] == {"wallet": minor, "wallet_held": -minor}
    if "captured" in one.journals:
        assert one.journals["captured"] == {"wallet_held": minor, "provider_clearing:vtpass": -minor}
    if "released" in one.journals:
        assert one.journals["released"] == {"wallet_held": minor, "wallet": -minor}
    if "returned" in one.journals:
        assert one.journals["returned"] == {"provider_clearing:vtpass": minor, "wallet": -minor}


@pytest.mark.parametrize("outcome", ENDS)
async def test_an_outcome_is_told_without_a_gap_and_ended_once(stage: Stage, outcome: str) -> None:
    purchase = stage.cases[outcome].end
    names = [event["type"] for event in purchase["timeline"]]
    assert [event["sequence"] for event in purchase["timeline"]] == list(range(1, purchase["version"] + 1))
    assert names[:2] == ["airtime.initiated", "wallet.held"]
    assert names.count(f"airtime.{purchase['status']}") == 1
    assert purchase["timeline"][-1]["status"] == purchase["status"]


async def test_what_was_taken_is_what_the_provider_has_and_the_books_balance(stage: Stage) -> None:
    ends = {name: one.end for name, one in stage.cases.items()}
    spent = sum(end["amount_minor"] for end in ends.values() if end["status"] == COMPLETED)
    open_ = sum(end["amount_minor"] for end in ends.values() if end["status"] == UNDER_REVIEW)
    assert stage.wallet == (FUNDED * 100 - spent - open_, open_)
    completed = [one.charge for one in stage.cases.values() if one.end["status"] == COMPLETED]
    assert sum(charge["money_taken_minor"] for charge in completed) == spent
    await balanced(stage.house)
