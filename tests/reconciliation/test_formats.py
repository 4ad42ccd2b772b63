"""What each format is read as, and files that are odd or wrong."""

import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from payflow.reconciliation.formats import (
    FORMATS,
    BadFile,
    LineKind,
    LineStatus,
    SettlementLine,
    format_of,
    read_file,
)

HEADER = "Reference,Amount,Currency,Status,Transaction date,Paystack fee\n"
PAID = "att1,5000.00,NGN,success,2026-11-21T10:00:00Z,75.00\n"
FIRST = SettlementLine(
    2,
    "payment:att1",
    LineKind.PAYMENT,
    LineStatus.SUCCEEDED,
    "success",
    ("att1",),
    500_000,
    "NGN",
    7_500,
    False,
    datetime(2026, 11, 21, 10, tzinfo=UTC),
)


def read(path: Path, content: str | bytes, provider: str = "paystack") -> list[SettlementLine]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_file(format_of(provider), path))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(HEADER + PAID, id="plain"),
        pytest.param(b"\xef\xbb\xbf" + (HEADER + PAID).encode(), id="with a byte order mark"),
        pytest.param((HEADER + PAID).replace("\n", "\r\n"), id="line ends of Windows"),
        pytest.param(HEADER.upper() + PAID, id="upper case"),
        pytest.param(HEADER.replace("Paystack fee", "  paystack_FEE ") + PAID, id="spaces and underscores"),
        pytest.param((HEADER + PAID).replace(",", ";"), id="semicolons"),
        pytest.param((HEADER + PAID).replace(",", "\t"), id="tabs"),
        pytest.param(HEADER + PAID + "\n,,,,,\n", id="empty rows behind"),
        pytest.param(HEADER + PAID.replace("5000.00", '"5,000.00"'), id="thousands"),
        pytest.param(HEADER + PAID.replace("5000.00", "NGN 5000.00"), id="currency before the amount"),
        pytest.param(HEADER + PAID.replace("5000.00", "5000.0000"), id="more noughts than decimals"),
        pytest.param(HEADER + PAID.replace(",NGN", ",ngn"), id="lower case currency"),
        pytest.param(HEADER + PAID.replace("2026-11-21T10:00:00Z", "21/11/2026 10:00"), id="another date"),
        pytest.param(HEADER + PAID.replace("2026-11-21T10:00:00Z", '"Nov 21, 2026 10:00 AM"'), id="a date in words"),
    ],
)
def test_the_same_payment_written_otherwise(file: Path, content: str | bytes) -> None:
    assert read(file, content) == [FIRST]


def test_an_amount_that_names_another_currency_than_its_line_is_refused(file: Path) -> None:
    with pytest.raises(BadFile, match=r"'USD 5000\.00' is not in NGN"):
        read(file, HEADER + PAID.replace("5000.00", "USD 5000.00"))


def test_columns_in_another_order_among_others(file: Path) -> None:
    (line,) = read(
        file,
        "Customer,Transaction date,Amount paid,Paystack fee,Amount due,Reference number,Currency,Subaccount\n"
        "ada@example.com,2026-11-21T10:00:00Z,5000,75,4925,att1,NGN,\n",
    )
    assert line == replace(FIRST, raw_status="")  # a payout's transactions have no status: all of them are paid


def test_the_statement_of_mpesa_begins_with_whose_it_is(file: Path) -> None:
    lines = read(
        file,
        "Short Code:,600000,,,,,\nOrganization Name:,Test Shop,,,,,\n\n"
        "Receipt No.,Completion Time,Details,Transaction Status,Paid In,Withdrawn,Balance,Linked Transaction ID\n"
        'TKL1,21-11-2026 13:00:00,Pay Bill Online,Completed,"1,250.00",,"1,250.00",\n'
        "TKL2,21-11-2026 13:01:00,Business Payment to Customer,Completed,,-200.00,1050.00,\n"
        "TKL2,21-11-2026 13:01:00,Business Payment to Customer Charge,Completed,,-15.50,1034.50,\n"
        "TKL3,21-11-2026 13:02:00,Pay Bill Reversal,Completed,,-1250.00,0.00,TKL1\n"
        "TKL4,21-11-2026 13:03:00,Reversal of Business Payment,Completed,200.00,,200.00,\n"
        "TKL5,21-11-2026 13:04:00,Organization Settlement Account,Completed,,-10.00,190.00,\n"
        "TKL6,21-11-2026 13:05:00,Pay Bill Online,Failed,0.00,0.00,190.00,\n",
        "mpesa",
    )
    assert [(line.number, line.kind, line.status, line.amount_minor) for line in lines] == [
        (5, LineKind.PAYMENT, LineStatus.SUCCEEDED, 125_000),
        (6, LineKind.PAYOUT, LineStatus.SUCCEEDED, 20_000),
        (7, LineKind.FEE, LineStatus.SUCCEEDED, 1_550),
        (8, LineKind.REFUND, LineStatus.SUCCEEDED, 125_000),
        (9, LineKind.PAYOUT, LineStatus.REVERSED, 20_000),
        (10, LineKind.OTHER, LineStatus.SUCCEEDED, 1_000),
        (11, LineKind.OTHER, LineStatus.FAILED, 0),
    ]
    assert lines[0].occurred_at == datetime(2026, 11, 21, 10, tzinfo=UTC)
    assert lines[3].names == ("TKL3", "TKL1")
    assert len({line.key for line in lines}) == len(lines)


def test_the_categories_of_stripe(file: Path) -> None:
    header = (
        "automatic_payout_id,balance_transaction_id,created,reporting_category,gross,fee,net,currency,charge_id,"
        "payment_intent_id,source_id,payment_metadata[reference]\n"
    )
    rows = (
        "po_1,txn_1,2026-11-21 10:00:00,charge,19.90,0.88,19.02,usd,ch_1,pi_1,ch_1,att1\n"
        "po_1,txn_2,2026-11-21 10:00:01,refund,-5.00,-0.15,-4.85,usd,ch_1,pi_1,re_1,att1\n"
        "po_1,txn_3,2026-11-21 10:00:02,refund_failure,5.00,0.00,5.00,usd,ch_1,pi_1,re_1,\n"
        "po_1,txn_4,2026-11-21 10:00:03,dispute,-19.90,15.00,-34.90,usd,ch_1,pi_1,dp_1,\n"
        "po_1,txn_5,2026-11-21 10:00:04,dispute_reversal,19.90,0.00,19.90,usd,ch_1,pi_1,dp_1,\n"
        "po_1,txn_6,2026-11-21 10:00:05,fee,-2.00,0.00,-2.00,usd,,,,\n"
        "po_1,txn_7,2026-11-21 10:00:06,payout,-9.12,0.00,-9.12,usd,,,po_1,\n"
        "po_1,txn_8,2026-11-21 10:00:07,something_new,1.00,0.00,1.00,usd,,,,\n"
        "po_1,txn_9,2026-11-21 10:00:08,charge,500,14,486,jpy,ch_2,pi_2,ch_2,\n"
    )
    lines = read(file, header + rows, "stripe")
    assert [(line.key, line.kind, line.status, line.amount_minor, line.fee_minor) for line in lines] == [
        ("txn_1", LineKind.PAYMENT, LineStatus.SUCCEEDED, 1_990, 88),
        ("txn_2", LineKind.REFUND, LineStatus.SUCCEEDED, 500, -15),
        ("txn_3", LineKind.REFUND, LineStatus.REVERSED, 500, 0),
        ("txn_4", LineKind.REVERSAL, LineStatus.SUCCEEDED, 1_990, 1_500),
        ("txn_5", LineKind.REINSTATEMENT, LineStatus.SUCCEEDED, 1_990, 0),
        ("txn_6", LineKind.FEE, LineStatus.SUCCEEDED, 200, None),
        ("txn_7", LineKind.OTHER, LineStatus.SUCCEEDED, 912, 0),
        ("txn_8", LineKind.OTHER, LineStatus.SUCCEEDED, 100, 0),
        ("txn_9", LineKind.PAYMENT, LineStatus.SUCCEEDED, 500, 14),
    ]
    assert lines[0].names == ("att1", "ch_1", "pi_1")


def test_a_settlement_of_flutterwave(file: Path) -> None:
    (line,) = read(
        file,
        "customer_email,flw_ref,tx_ref,id,charged_amount,app_fee,merchant_fee,settlement_amount,status,"
        "payment_entity,transaction_date,currency\n"
        "test@example.com,FLW-MOCK-1,att1,984411,1026.88,26.875,0,1000,successful,card,2026-11-21,NGN\n",
        "flutterwave",
    )
    assert line.names == ("att1", "984411", "FLW-MOCK-1")
    assert (line.amount_minor, line.fee_minor, line.fee_rounded) == (102_688, 2_688, True)
    assert line.occurred_at == datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param("", "is empty", id="nothing"),
        pytest.param("\n\n  \n", "is empty", id="empty rows"),
        pytest.param(
            HEADER.replace(",", "|") + PAID.replace(",", "|"), "lacks the columns Reference, Amount", id="pipes"
        ),
        pytest.param(HEADER.replace("Currency", "Cur") + PAID, "lacks the columns Currency.", id="a column"),
        pytest.param("id,tx_ref,charged_amount\n1,2,3\n", "lacks the columns Reference, Amount", id="another's file"),
        pytest.param("<html><body>Please log in</body></html>", "lacks the columns", id="a page"),
        pytest.param("PK\x03\x04\xff\xfe".encode("latin-1"), "not text in UTF-8", id="a spreadsheet"),
        pytest.param((HEADER + PAID).encode("utf-16"), "not text in UTF-8", id="UTF-16"),
        pytest.param(HEADER + '"att1,5000.00,NGN\n', "is not CSV", id="an open quote"),
        pytest.param(HEADER + PAID + "att2,5000.00\n", "Line 3, column 'Currency': is empty.", id="cut off"),
        pytest.param(HEADER + PAID.replace("att1", ""), "Line 2, column 'Reference': is empty.", id="no reference"),
        pytest.param(HEADER + PAID.replace("5000.00", '"5.000,00"'), "no amount such as", id="commas for points"),
        pytest.param(HEADER + PAID.replace("5000.00", '"50,00"'), "no amount such as", id="a comma for a point"),
        pytest.param(HEADER + PAID.replace("5000.00", "1e3"), "no amount such as", id="a float"),
        pytest.param(HEADER + PAID.replace("5000.00", "٥٠٠٠"), "no amount such as", id="other digits"),
        pytest.param(HEADER + PAID.replace("5000.00", "5000.005"), "more decimals than NGN", id="half a kobo"),
        pytest.param(HEADER + PAID.replace("5000.00", "9" * 20), "is too large", id="too much"),
        pytest.param(HEADER + PAID.replace("NGN", "NGX"), "not an ISO 4217 currency", id="no currency"),
        pytest.param(HEADER + PAID.replace("2026-11-21T", "tomorrow "), "is no date that is known", id="no date"),
        pytest.param(
            HEADER + PAID.replace("2026-", "0001-"), "column 'Transaction date': is out of range", id="year 1"
        ),
        pytest.param(HEADER + PAID.replace("2026-", "9999-"), "is out of range", id="the last year"),
        pytest.param(HEADER + PAID.replace("att1", "at\0t1"), "column 'Reference': holds a NUL", id="NUL"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(file: Path, content: str | bytes, told: str) -> None:
    with pytest.raises(BadFile, match=told):
        read(file, content)


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(BadFile, match="cannot be read: No such file"):
        list(read_file(format_of("paystack"), file))
    with pytest.raises(BadFile, match="cannot be read"):
        list(read_file(format_of("paystack"), file.parent))


def test_a_provider_without_a_format_is_told_which_there_are() -> None:
    with pytest.raises(BadFile, match="flutterwave, mpesa, paystack, stripe"):
        format_of("vtpass")


def test_every_format_requires_columns_that_it_knows() -> None:
    for provider, known in FORMATS.items():
        assert known.provider == provider
        assert set(known.required) <= set(known.columns)


def test_a_long_file_is_read_line_by_line(file: Path) -> None:
    file.write_text(HEADER + "".join(PAID.replace("att1", f"att{number}") for number in range(20_000)))
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_file(format_of("paystack"), file))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 200_000  # the file itself has a million bytes
