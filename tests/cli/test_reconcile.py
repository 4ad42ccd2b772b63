"""`payflow reconcile`: a file compared from the command line, in the ways its end can be told, and a repair."""

import json
from pathlib import Path
from typing import Any

import pytest

from payflow.core.clock import rfc3339, utc_now
from tests.cli.conftest import Run
from tests.cli.test_commands import environment_of, one_line
from tests.house import House, Merchant, Urls, running_house
from tests.webhooks.desk import attempt_of

HEADER = "Reference,Amount,Currency,Status,Transaction date,Paystack fee\n"


async def paid(house: House, ada: Merchant) -> dict[str, Any]:
    payment: dict[str, Any] = await house.until(ada, (await ada.pay("paystack"))["id"], "completed")
    return payment


def line_of(payment: dict[str, Any], **changes: str) -> str:
    told = {
        "reference": attempt_of(payment)["reference"],
        "amount": "5000.00",
        "currency": "NGN",
        "status": "success",
        "date": rfc3339(utc_now()),
        "fee": f"{(payment['fee_minor'] or 0) / 100:.2f}",
    }
    return ",".join({**told, **changes}.values()) + "\n"


@pytest.mark.timeout(400)
async def test_reconcile_and_repair(run: Run, urls: Urls, folder: Path) -> None:
    async with running_house(urls, amqp_url="") as house:
        environment = {**environment_of(house), "PAYFLOW_RECONCILIATION_MARGIN_SECONDS": "0"}
        ada = await house.merchant()
        await house.services.identity.create_admin("root@example.com", "correct horse 1", "Root")
        first, second = await paid(house, ada), await paid(house, ada)
        file = folder / "november.csv"
        file.write_text(HEADER + line_of(first) + line_of(second))
        clean = await run("reconcile", "paystack", str(file), **environment)
        assert (clean.code, clean.out.splitlines()[-1]) == (0, "No differences."), clean.out + clean.errors

        file.write_text(HEADER + line_of(first, fee="99.00") + line_of(first, reference="till-7"))
        told = await run("reconcile", "--format", "json", "paystack", str(file), **environment)
        assert told.code == 1, told.errors
        found = json.loads(told.out)["differences"]
        assert [(each["kind"], each["line"]) for each in found] == [
            ("fee", 2),
            ("missing_here", 3),
            ("missing_there", None),
        ]
        assert found[2]["reference"] == attempt_of(second)["reference"]
        assert told.errors.splitlines()[-1] == "Differences: 1 fee, 1 missing_here, 1 missing_there."

        who = ("--reason", "told by the export", "--admin", "root@example.com")
        repair = ("reconcile", "repair", "paystack", str(file))
        done = await run(*repair, "--line", "3", "--kind", "suspense", *who, **environment)
        assert (done.code, done.out.startswith("Posted journal ")) == (0, True), done.errors
        again = await run(*repair, "--line", "3", "--kind", "suspense", *who, **environment)
        assert (again.code, again.out.endswith("Nothing was posted.")) == (0, True), again.errors
        events = await house.rows("SELECT data->>'reason' AS reason FROM events WHERE type = 'books.repaired'")
        assert [event["reason"] for event in events] == ["told by the export"]


async def test_a_bad_file_ends_with_2_and_one_line(run: Run, urls: Urls, folder: Path) -> None:
    file = folder / "bad.csv"
    async with running_house(urls, worker=False, amqp_url="") as house:
        environment = environment_of(house)
        for content, arguments, told in (
            ("a,b\n1,2\n", ("paystack",), "lacks the columns Reference, Amount, Currency, Transaction date."),
            (HEADER, ("paystack",), "has no lines. With --from and --to it is taken as complete for that time."),
            (HEADER, ("vtpass",), "There is no settlement format of 'vtpass'."),
            (HEADER, ("paystack", "--from", "soon"), "'soon' is no date such as"),
            (HEADER, ("paystack", "--to", "9999-12-31"), "'9999-12-31' is no date such as"),
            (HEADER, ("paystack", "--from", "2026-02-01", "--to", "2026-01-01"), "there is no time"),
        ):
            file.write_text(content)
            done = await run(
                "reconcile", arguments[0], str(file), *arguments[1:], "--output", str(folder / "o"), **environment
            )
            assert (done.code, done.out) == (2, ""), done.errors
            assert told in one_line(done.errors)
        quiet = await run("reconcile", "paystack", str(file), "--from", "2026-01-01", "--to", "20260101", **environment)
        assert (quiet.code, quiet.out.splitlines()[-1]) == (0, "No differences."), quiet.errors
        assert "2026-01-01T00:00:00.000000Z to 2026-01-02T00:00:00.000000Z" in quiet.out
        assert not (folder / "o").exists()
