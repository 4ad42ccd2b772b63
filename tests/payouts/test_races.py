"""Many withdrawals at once against one wallet, on real PostgreSQL through the API: never more than it holds."""

import asyncio
from collections import Counter

from tests.airtime.desk import buy, phone
from tests.house import Urls, eventually, running_house
from tests.payouts.till import audit, fill, purse, withdraw


async def test_two_hundred_at_once_take_what_is_there_and_no_more(urls: Urls) -> None:
    """Withdrawals and purchases of airtime by turns, from one wallet that covers fifty of them."""
    simulator = {"automatic_customer": False}
    async with running_house(urls, amqp_url="", simulator=simulator, worker=False) as house:
        ada = await house.merchant()
        await fill(house, ada, 50 * 10_000)
        await house.outcome("vtpass", "silent", operation="purchase")  # an order that stays open, as the transfers do
        answers = await asyncio.gather(
            *(
                withdraw(ada, amount="100.00") if number % 2 else buy(ada, phone=phone(number), amount="100.00")
                for number in range(200)
            )
        )
        words = Counter((answer.status_code, answer.json().get("code")) for answer in answers)
        assert words == {(201, None): 50, (409, "insufficient_funds"): 150}
        assert await purse(house, ada) == (0, 500_000)
        held = await house.rows(
            "SELECT t.kind, count(*)::int AS many FROM holds h JOIN transactions t ON t.id = h.transaction_id"
            " WHERE h.status = 'held' GROUP BY t.kind"
        )
        by_kind = {row["kind"]: row["many"] for row in held}
        assert sum(by_kind.values()) == 50
        assert by_kind.keys() == {"withdrawal", "airtime"}
        for provider, kind in (("paystack", "withdrawal"), ("vtpass", "airtime")):
            assert (await house.charges(provider))["totals"]["submissions"] == by_kind[kind]
        await audit(house)


async def test_starts_and_ends_at_once_lose_nothing(urls: Urls) -> None:
    """Holds end by webhooks while others begin, some declined: what is left is what did not go."""
    simulator = {"customer_delay_seconds": 0.01}
    async with running_house(urls, amqp_url="", simulator=simulator) as house:
        ada = await house.merchant()
        await fill(house, ada, 40 * 10_000)
        await house.outcome("paystack", "decline", operation="payout", times=15)
        answers = await asyncio.gather(*(withdraw(ada, amount="100.00") for _ in range(60)))
        assert {answer.status_code for answer in answers} <= {201, 409}
        assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"insufficient_funds"}

        async def nothing_open() -> bool:
            return (await purse(house, ada))[1] == 0

        await eventually(nothing_open, seconds=30)
        ends = await house.rows("SELECT status, count(*)::int AS many FROM transactions GROUP BY status")
        by_status = {end["status"]: end["many"] for end in ends}
        assert set(by_status) <= {"completed", "failed"}
        assert by_status["failed"] == 15
        assert await purse(house, ada) == (400_000 - by_status["completed"] * 10_000, 0)
        await audit(house)
