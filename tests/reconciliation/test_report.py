"""The report as a table, JSON and CSV."""

import csv
import io
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from payflow.core.ids import uuid7
from payflow.reconciliation.report import guarded, write_report
from payflow.reconciliation.service import Difference, DifferenceKind, Summary

DAY = datetime(2026, 11, 21, tzinfo=UTC)
HERE = uuid7()
FOUND = (
    Difference(DifferenceKind.AMOUNT, "payment", 2, "att1", "4099", HERE, "5000.00 NGN", "4999.00 NGN", DAY),
    Difference(DifferenceKind.MISSING_HERE, "refund", 3, None, '=HYPERLINK("x")', None, "", "-1.00 NGN", DAY),
)


async def report(form: str, *found: Difference) -> str:
    summary = Summary("paystack", "november.csv", DAY, DAY + timedelta(days=1), lines=5, agreed=3, repaired=1)
    summary.not_ours = Counter({"payout": 1})

    async def differences() -> AsyncIterator[Difference]:
        for difference in found:
            summary.differences[difference.kind] += 1
            yield difference

    out = io.StringIO()
    await write_report(form, out, summary, differences())
    return out.getvalue()


async def test_json() -> None:
    told: dict[str, Any] = json.loads(await report("json", *FOUND))
    assert told["differences"][0] == {
        "kind": "amount",
        "about": "payment",
        "line": 2,
        "reference": "att1",
        "provider_reference": "4099",
        "ours": "5000.00 NGN",
        "theirs": "4999.00 NGN",
        "transaction_id": str(HERE),
        "occurred_at": "2026-11-21T00:00:00.000000Z",
    }
    assert told["summary"] == {
        "provider": "paystack",
        "file": "november.csv",
        "from": "2026-11-21T00:00:00.000000Z",
        "to": "2026-11-22T00:00:00.000000Z",
        "lines": 5,
        "agreed": 3,
        "repaired": 1,
        "outside": 0,
        "not_ours": {"payout": 1},
        "differences": {"amount": 1, "missing_here": 1},
        "clean": False,
    }
    assert json.loads(await report("json"))["summary"]["clean"] is True


async def test_csv_holds_no_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(await report("csv", *FOUND), newline="")))
    assert [row["kind"] for row in rows] == ["amount", "missing_here"]
    assert rows[1]["provider_reference"] == '\'=HYPERLINK("x")'
    assert rows[1]["theirs"] == "'-1.00 NGN"
    assert (rows[1]["reference"], rows[1]["transaction_id"]) == ("", "")


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_what_begins_a_formula_is_guarded(begin: str) -> None:
    assert guarded(begin + "1") == "'" + begin + "1"
    assert guarded("1" + begin) == "1" + begin


async def test_the_table_ends_with_what_was_compared() -> None:
    lines = (await report("table", *FOUND)).splitlines()
    assert lines[0].split() == ["kind", "about", "line", "reference", "provider_reference", "ours", "theirs"]
    assert lines[1].split()[:4] == ["amount", "payment", "2", "att1"]
    assert lines[-4:] == [
        "november.csv (paystack), 2026-11-21T00:00:00.000000Z to 2026-11-22T00:00:00.000000Z",
        "5 lines: 3 agree (1 repaired)",
        "1 about no transaction: 1 payout",
        "Differences: 1 amount, 1 missing_here.",
    ]
    assert (await report("table")).splitlines()[-1] == "No differences."


async def test_a_file_cannot_move_the_cursor_of_who_reads_the_table() -> None:
    evil = Difference(DifferenceKind.STATUS, "payment", 2, None, "a\x1b[2Jb\nc", None, "x", "y", DAY)
    assert "a?[2Jb?c" in await report("table", evil)
