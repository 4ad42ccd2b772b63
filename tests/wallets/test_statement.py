"""The statement: every page with the right balance after each entry, as JSON and as CSV."""

import asyncio
import csv
from datetime import datetime, timedelta
from io import StringIO
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from payflow.core.clock import utc_now
from payflow.core.ids import uuid7
from payflow.core.money import Money
from payflow.ledger import journals
from payflow.ledger import repository as ledger
from payflow.ledger.journals import Hold
from payflow.ledger.repository import Accounts
from payflow.wallets.repository import StatementLine
from payflow.wallets.schemas import StatementEntry
from payflow.wallets.service import entry_json
from tests.house import House, Merchant
from tests.wallets.conftest import fund, holds


async def post(shop: House, merchant: Merchant, *amounts: int) -> None:
    """Credits, as fundings post them, each in a database transaction of its own."""
    accounts = Accounts()
    for amount in amounts:
        async with shop.services.database.transaction() as raw:
            await add(raw, accounts, merchant, amount)


async def add(raw: Any, accounts: Accounts, merchant: Merchant, amount: int) -> None:
    money = Money(amount, "NGN")
    user = UUID(merchant.id)
    journal = journals.collected(uuid7(), None, user, "paystack", money, None, account="wallet")  # type: ignore[arg-type]
    await accounts.open(raw, [journal])
    first, second = ledger.parameters([journal])
    await raw.execute(ledger.INSERT_JOURNALS, *first)
    await raw.execute(ledger.INSERT_ENTRIES, *second)


async def page(merchant: Merchant, **params: Any) -> dict[str, Any]:
    answer = await merchant.get("/wallet/statement", params=params)
    assert answer.status_code == 200, answer.text
    return {**answer.json(), "link": answer.headers["link"]}


def balances(shown: dict[str, Any]) -> list[int]:
    return [entry["balance_minor"] for entry in shown["data"]]


async def test_a_funding_in_the_statement(shop: House, ada: Merchant) -> None:
    funding = await fund(shop, ada, description="Top-up")
    shown = await page(ada)
    (entry,) = shown["data"]
    assert entry.pop("id").isdigit()
    assert entry.pop("created_at").endswith("Z")
    assert entry == {
        "type": "funding",
        "amount": "500.00",
        "amount_minor": 50_000,
        "balance": "500.00",
        "balance_minor": 50_000,
        "currency": "NGN",
        "transaction_id": funding["id"],
        "transaction_kind": "funding",
        "reference": funding["reference"],
        "provider": "paystack",
        "description": "Top-up",
    }
    assert (shown["currency"], shown["page"], shown["limit"], shown["has_more"]) == ("NGN", 1, 20, False)


async def test_the_balance_is_right_on_every_page_by_cursor_and_by_number(shop: House, ada: Merchant) -> None:
    await post(shop, ada, *range(100, 125))
    whole = await page(ada, limit=100)
    assert [entry["amount_minor"] for entry in whole["data"]] == list(range(124, 99, -1))
    assert balances(whole) == [sum(range(100, end)) for end in range(125, 100, -1)]
    seen, cursor = [], None
    while True:
        shown = await page(ada, limit=4, **({"cursor": cursor} if cursor else {}))
        seen += shown["data"]
        cursor = shown["next_cursor"]
        assert shown["has_more"] == (cursor is not None)
        if cursor is None:
            break
    assert seen == whole["data"]
    numbered = [(await page(ada, limit=10, page=number))["data"] for number in (1, 2, 3, 4)]
    assert [entry for each in numbered for entry in each] == whole["data"]
    assert [len(each) for each in numbered] == [10, 10, 5, 0]


async def test_new_entries_shift_no_page_of_a_cursor(shop: House, ada: Merchant) -> None:
    await post(shop, ada, 10, 20, 30, 40)
    first = await page(ada, limit=2)
    await post(shop, ada, 50)
    second = await page(ada, limit=2, cursor=first["next_cursor"])
    assert (balances(first), balances(second)) == ([100, 60], [30, 10])


async def test_the_link_header_leads_through_the_pages(shop: House, ada: Merchant) -> None:
    await post(shop, ada, 10, 20, 30)
    shown = await page(ada, limit=2, currency="NGN")
    first, following = shown["link"].split(", ")
    assert first == '</api/v1/wallet/statement?limit=2&currency=NGN>; rel="first"'
    target, rel = following.split("; ")
    assert rel == 'rel="next"'
    query = parse_qs(urlsplit(target.strip("<>")).query)
    assert query == {"limit": ["2"], "currency": ["NGN"], "cursor": [shown["next_cursor"]]}
    last = await page(ada, **{name: values[0] for name, values in query.items()})
    assert (balances(last), "next" in last["link"]) == ([10], False)


async def test_a_period_shows_its_own_entries_with_balances_of_all(shop: House, ada: Merchant) -> None:
    await post(shop, ada, 10, 20, 30, 40, 50)
    entries = (await page(ada))["data"]
    since, until = entries[3]["created_at"], entries[1]["created_at"]
    assert datetime.fromisoformat(since) < datetime.fromisoformat(until)
    shown = await page(ada, **{"from": since, "to": until})
    assert shown["data"] == entries[2:4]
    one = await page(ada, **{"from": since, "to": until, "limit": 1})
    assert one["data"] == entries[2:3]
    later = (datetime.fromisoformat(entries[0]["created_at"]) + timedelta(days=1)).isoformat()
    assert (await page(ada, **{"from": later}))["data"] == []


async def test_entries_in_another_order_than_their_times_have_right_balances_still(shop: House, ada: Merchant) -> None:
    """A database transaction that began first may write last: its entry is older and has the higher id."""
    accounts = Accounts()
    await post(shop, ada, 10)
    async with shop.services.database.transaction() as slow:
        await slow.fetchval("SELECT now()")
        await post(shop, ada, 20)
        await add(slow, accounts, ada, 40)
    await post(shop, ada, 80)
    entries = (await page(ada))["data"]
    assert [(entry["amount_minor"], entry["balance_minor"]) for entry in entries] == [
        (80, 150), (40, 70), (20, 30), (10, 10),
    ]  # fmt: skip
    assert entries[1]["created_at"] < entries[2]["created_at"]
    period = await page(ada, **{"from": entries[2]["created_at"]})
    assert [(entry["amount_minor"], entry["balance_minor"]) for entry in period["data"]] == [(80, 150), (20, 30)]


async def test_while_money_comes_every_page_is_right_in_itself(shop: House, ada: Merchant) -> None:
    """Balance and entries are of one snapshot: the newest entry's balance is what the entries add up to."""
    done = asyncio.Event()

    async def pour() -> None:
        await asyncio.gather(*(post(shop, ada, *range(1, 40)) for _ in range(3)))
        done.set()

    async def look() -> int:
        looks = 0
        while not done.is_set():
            entries = (await page(ada, limit=100))["data"]
            for newer, older in pairwise(entries):
                assert newer["balance_minor"] - newer["amount_minor"] == older["balance_minor"]
            if 0 < len(entries) < 100:
                assert entries[-1]["balance_minor"] == entries[-1]["amount_minor"]
            looks += 1
        return looks

    _, looks = await asyncio.gather(pour(), look())
    assert looks > 3
    assert (await holds(ada))[0] == 3 * sum(range(1, 40))


async def test_nobody_reads_anothers_statement(shop: House, ada: Merchant) -> None:
    await post(shop, ada, 10)
    bert = await shop.merchant()
    assert (await page(bert))["data"] == []
    missing = await bert.get("/wallet/statement", params={"currency": "USD"})
    assert (missing.status_code, missing.json()["code"]) == (404, "wallet_not_found")
    for params in ({"page": 0}, {"limit": 101}, {"cursor": "x"}, {"from": "yesterday"}, {"nobody": "knows"}):
        assert (await bert.get("/wallet/statement", params=params)).status_code == 422, params


async def test_as_csv_by_parameter_and_by_accept(shop: House, ada: Merchant) -> None:
    await fund(shop, ada, description="Top-up, with a comma")
    await post(shop, ada, 25)
    shown = (await page(ada))["data"]
    by_format = await ada.get("/wallet/statement", params={"format": "csv"})
    by_accept = await ada.get("/wallet/statement", headers={"accept": "text/csv"})
    assert by_format.text == by_accept.text
    assert by_format.headers["content-type"].startswith("text/csv")
    assert by_format.headers["content-disposition"] == 'attachment; filename="wallet-ngn.csv"'
    rows = list(csv.DictReader(StringIO(by_format.text)))
    assert [row["balance"] for row in rows] == [entry["balance"] for entry in shown] == ["500.25", "500.00"]
    assert rows[1]["description"] == "Top-up, with a comma"
    assert rows[1]["reference"] == shown[1]["reference"]
    as_json = await ada.get("/wallet/statement", params={"format": "json"}, headers={"accept": "text/csv"})
    assert as_json.json()["data"] == shown


async def test_csv_is_the_whole_period_in_as_many_parts_as_it_takes(shop: House, ada: Merchant) -> None:
    service = shop.services.wallets
    await post(shop, ada, *range(1, 26))
    shown = (await page(ada, limit=100))["data"]
    whole = (await ada.get("/wallet/statement", params={"format": "csv", "limit": 1, "page": 3})).text
    assert [row["balance"] for row in csv.DictReader(StringIO(whole))] == [entry["balance"] for entry in shown]
    assert service.csv_rows == 5_000
    service.csv_rows = 10
    try:
        in_parts = (await ada.get("/wallet/statement", params={"format": "csv"})).text
        bounds = {"from": shown[22]["created_at"], "to": shown[2]["created_at"]}
        period = (await ada.get("/wallet/statement", params={"format": "csv", **bounds})).text
    finally:
        service.csv_rows = 5_000
    assert in_parts == whole
    inside = list(csv.DictReader(StringIO(period)))
    assert [row["entry_id"] for row in inside] == [entry["id"] for entry in shown[3:23]]
    assert [row["balance"] for row in inside] == [entry["balance"] for entry in shown[3:23]]
    missing = await ada.get("/wallet/statement", params={"format": "csv", "currency": "USD"})
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")


async def test_csv_holds_no_formula(shop: House, ada: Merchant) -> None:
    for text in ('=HYPERLINK("http://evil.example")', "+1", "-1+2", "@SUM(A1)"):
        await fund(shop, ada, "10.00", description=text)
    rows = list(csv.DictReader(StringIO((await ada.get("/wallet/statement", params={"format": "csv"})).text)))
    assert [row["description"] for row in rows] == ["'@SUM(A1)", "'-1+2", "'+1", '\'=HYPERLINK("http://evil.example")']


def test_whatever_is_posted_to_a_wallet_is_told_in_words_that_are_documented() -> None:
    user, about, hold = uuid7(), (uuid7(), uuid7(), uuid7(), "paystack", Money(1_000, "NGN")), a_hold()
    taken = [journals.reversed_collection(*about, account="wallet", times=times) for times in range(3)]
    posted = [
        journals.collected(*about, None, account="wallet"),
        journals.corrected(*about[:4], 100, "NGN", account="wallet", times=2),
        journals.released(about[0], about[1], user, about[4], account="wallet"),
        *taken,
        *(journals.reinstated(about[0], about[1], taken[0].lines, times) for times in range(3)),
        *(journals.refund(kind, *about, account="wallet") for kind in ("refunded", "refund_failed")),
        journals.held(hold),
        journals.released_hold(hold),
        journals.captured_after_release(hold, "paystack", None, lacking=0),
        journals.payout_returned(hold, "paystack"),
    ]
    described = str(StatementEntry.model_fields["type"].description)
    for journal in posted:
        assert any(line.code == "wallet" for line in journal.lines)
        line = StatementLine(1, utc_now(), 1, 1, journal.source_type, journal.kind, None, None, None, None, None)
        assert f"`{entry_json(line, 'NGN')['type']}`" in described, journal.kind


def a_hold() -> Hold:
    return Hold(uuid7(), uuid7(), uuid7(), "transaction", uuid7(), Money(1_000, "NGN"))
