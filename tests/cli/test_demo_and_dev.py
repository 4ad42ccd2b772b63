"""`payflow demo` and `payflow dev`: one command, nothing to install."""

import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import httpx
import pytest

from payflow.bootstrap import Services, build_services
from payflow.cli.demo import Demo, demo_settings, drained
from payflow.cli.purse import Purse, check_statement
from payflow.cli.shop import DemoFailed, Shop
from payflow.cli.stack import Stack, running_stack
from payflow.core.settings import Settings
from tests.cli.conftest import Run, Start, free_port
from tests.house import Urls

PROVIDERS = ("paystack", "mpesa", "stripe", "flutterwave", "moniepoint", "cpay", "standardbank_pay")


def frames(out: str) -> list[list[str]]:
    """The types of the frames shown, payment by payment."""
    told: list[list[str]] = []
    for line in out.splitlines():
        if re.match(r"\[\d+/\d+\]", line):
            told.append([])
        if found := re.match(r"  ws .* #(\d+|-)  (\S+)", line):
            told[-1].append(found[2])
    return told


TABLE = [
    ["what", "provider", "amount", "way", "status", "refunded"],
    ["refund in two parts", "paystack", "5000.00 NGN", "redirect", "refunded", "5000.00"],
    ["payment", "mpesa", "250.00 KES", "handset_prompt", "completed", "-"],
    ["refund at once", "stripe", "19.90 USD", "redirect", "refunded", "19.90"],
    ["payment", "flutterwave", "1200.00 GHS", "redirect", "completed", "-"],
    ["payment", "moniepoint", "4200.00 NGN", "redirect", "completed", "-"],
    ["payment", "cpay", "150.00 LSL", "otp", "completed", "-"],
    ["payment", "standardbank_pay", "99.50 ZAR", "redirect", "completed", "-"],
    ["direct charge", "paystack", "2500.00 NGN", "birthday > otp", "completed", "-"],
    ["provider chosen", "flutterwave", "1750.00 NGN", "redirect", "completed", "-"],
    ["flutterwave drained", "moniepoint", "1750.00 NGN", "redirect", "completed", "-"],
    ["flutterwave refused", "flutterwave > moniepoint", "1750.00 NGN", "redirect", "completed", "-"],
]


WALLET_STORIES = [
    ["payment.initiated", "payment.requires_action", "payment.completed", "wallet.credited"],
    ["withdrawal.initiated", "wallet.held", "withdrawal.processing", "withdrawal.completed", "wallet.debited"],
    ["airtime.initiated", "wallet.held", "airtime.completed", "wallet.debited"],
]
WALLET = ["10000.50 NGN available, 0.00 held"]
WALLET += ["6500.25 NGN available, 3500.25 held", "6500.25 NGN available, 0.00 held"]
WALLET += ["6000.25 NGN available, 0.00 held"] * 2
STATEMENT = [
    ["entry", "for", "provider", "amount", "balance"],
    ["funding", "funding", "paystack", "10000.50", "10000.50"],
    ["hold", "withdrawal", "paystack", "-3500.25", "6500.25"],
    ["hold", "airtime", "vtpass", "-500.00", "6000.25"],
]


def table(out: str, first: str) -> list[list[str]]:
    """The cells of the table with this first heading, cut where its columns are."""
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip().startswith(f"{first} "))
    columns = [match.span() for match in re.finditer("-+", lines[start + 1])]
    rows = [lines[start], *lines[start + 2 :]]
    end = next(number for number, line in enumerate(rows) if not line or "GET" in line)
    return [[line[slice(*column)].strip() for column in columns] for line in rows[:end]]


def without(rows: list[list[str]], *headings: str) -> list[list[str]]:
    kept = [place for place, heading in enumerate(rows[0]) if heading not in headings]
    return [[row[place] for place in kept] for row in rows]


def assert_all_was_shown(out: str) -> None:
    assert [name for name in PROVIDERS if f"] {name}: " in out] == list(PROVIDERS)
    shown = [
        events for payment in frames(out) if (events := [kind for kind in payment if kind != "snapshot"])
    ]  # giving money back is not watched
    assert len(shown) == len(PROVIDERS) + 4 + 3
    assert shown[-3:] == WALLET_STORIES
    for events in shown[:-3]:
        assert events[0] == "payment.initiated"
        assert events[-1] == "payment.completed"
        assert [kind for kind in events if kind == events[0]] == events[:1]
    assert "submit-otp birthday → requires_action  otp" in out
    assert out.count("submit-otp otp → completed") == 2
    assert out.count("…/refunds/… → completed") == 3
    assert [out.count(f": {status}, 5000.00 NGN") for status in ("partially_refunded", "refunded")] == [1, 1]
    assert "Chosen: moniepoint, fits; number 3 in the order; flutterwave was skipped: drained" in out
    assert "Attempts: flutterwave refused, moniepoint succeeded" in out
    payments = table(out, "what")
    assert without(payments, "events") == TABLE
    assert all(int(row[payments[0].index("events")]) >= 2 for row in payments[1:])
    assert [line.partition(" → ")[2] for line in out.splitlines() if "GET  /wallet →" in line] == WALLET
    assert "POST /wallet/resolve-account 0123456789 → ADA OBI" in out
    assert without(table(out, "time"), "time", "reference") == STATEMENT
    assert re.search(r"^  \d+ entries at .*: no breaks, no warnings\.$", out, re.MULTILINE)
    assert out.endswith(
        "OK: 11 payments and 3 refunds completed, every frame in order, GET agrees; "
        "the wallet, its statement and the books agree too."
    )


@pytest.fixture
async def broker(urls: Urls, servers: dict[str, str]) -> AsyncIterator[dict[str, str]]:
    """The servers with RabbitMQ among them; its queues go at the end."""
    yield {**servers, "AMQP_URL": urls.amqp}
    prefix = servers["PAYFLOW_QUEUE_PREFIX"]
    delays = (2_000, 10_000, 60_000, 300_000, 900_000, 3_600_000, 21_600_000)
    connection = await aio_pika.connect(urls.amqp)
    async with connection, connection.channel() as channel:
        for topic in ("webhooks", "deliveries"):
            for delay in delays:
                await channel.queue_delete(f"{prefix}.{topic}.delay.{delay}ms")
            await channel.queue_delete(f"{prefix}.{topic}")
            await channel.queue_delete(f"{prefix}.{topic}.dead")
        await channel.exchange_delete(prefix)


async def test_demo_shows_all_of_it_with_nothing_installed(run: Run, folder: Path) -> None:
    done = await run("demo", seconds=110)
    assert done.code == 0, done.out + done.errors
    assert_all_was_shown(done.out)
    assert "embedded, data in" in done.out
    assert "the spool in PostgreSQL (no AMQP_URL)" in done.out
    assert "Traceback" not in done.errors


async def test_demo_shows_all_of_it_on_servers_of_ones_own_and_leaves_them_as_they_were(
    run: Run, broker: dict[str, str], folder: Path
) -> None:
    done = await run("demo", seconds=110, **broker)
    assert done.code == 0, done.out + done.errors
    assert_all_was_shown(done.out)
    assert [
        f"  {part}: {name}" in done.out for part, name in (("postgres", "DATABASE_URL"), ("queue", "AMQP_URL"))
    ] == [
        True,
        True,
    ]
    assert not (folder / "data").exists()
    async with looking_into(broker["DATABASE_URL"]) as services, services.database.raw() as connection:
        assert await connection.fetch("SELECT email FROM users WHERE role = 'admin'") == []
        states = await connection.fetch("SELECT provider, drained FROM provider_states")
        assert [tuple(row) for row in states] == [("flutterwave", False)]
        rows = await connection.fetch("SELECT type, data FROM events WHERE type LIKE 'provider.%' ORDER BY id")
        assert [row["type"] for row in rows] == ["provider.drained", "provider.resumed"]


@asynccontextmanager
async def looking_into(database_url: str) -> AsyncIterator[Services]:
    services = build_services(Settings(_env_file=None, database_url=database_url, redis_url="redis://localhost:1/0"))
    try:
        yield services
    finally:
        await services.close()


async def test_a_provider_drained_for_the_demo_is_in_use_again_whatever_happens(
    run: Run, servers: dict[str, str]
) -> None:
    assert (await run("migrate", **servers)).code == 0
    async with looking_into(servers["DATABASE_URL"]) as services:
        user = await services.identity.register("ada@example.com", "correct horse battery", "Ada")
        with pytest.raises(DemoFailed):
            async with drained(services, "paystack", user.id):
                assert await services.drains.names() == {"paystack"}
                raise DemoFailed("the payment was lost")
        assert await services.drains.names() == frozenset()


@pytest.fixture
async def stack(servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stack]:
    """In the test's own process, with customers who do not think for long."""
    monkeypatch.setenv("PAYFLOW_SIMULATOR_CUSTOMER_DELAY_SECONDS", "0.05")
    settings = Settings(
        _env_file=None,
        database_url=servers["DATABASE_URL"],
        redis_url=servers["REDIS_URL"],
        redis_prefix=servers["PAYFLOW_REDIS_PREFIX"],
        withdrawal_approval_minor={"NGN": 0},  # which the demo must not wait for
    )
    async with running_stack(demo_settings(settings), any_port=True) as running:
        yield running


@pytest.mark.parametrize(
    ("provider", "operation", "outcome", "patience", "reason"),
    [
        ("paystack", "refund", "decline", 60, "the refund ended failed: The refund failed."),
        ("stripe", "refund", "silent", 15, "the refund did not end within 15 s (last seen: processing)"),
        ("vtpass", "purchase", "decline", 60, "it went from airtime.initiated to airtime.failed"),
    ],
)
async def test_demo_fails_when_money_does_not_go_where_it_should(
    stack: Stack,
    capsys: pytest.CaptureFixture[str],
    provider: str,
    operation: str,
    outcome: str,
    patience: int,
    reason: str,
) -> None:
    """Patience is what a busy machine may need for every earlier step; only the silent provider uses it up."""
    await stack.control("/outcomes", {"provider": provider, "outcome": outcome, "operation": operation})
    assert await Demo(stack, timeout_seconds=patience).run() == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"FAILED: {reason}"
    assert "OK: " not in out


async def test_a_wallet_that_is_wrong_by_one_unit_fails_the_demo_at_the_wallet_and_at_the_books(stack: Stack) -> None:
    purse = Purse(stack)
    *spending, (_, statement), (_, books) = purse.steps()
    async with httpx.AsyncClient(base_url=stack.url + "/api/v1", trust_env=False) as client:
        shop = Shop(stack.url, client, timeout_seconds=10)
        await shop.sign_in()
        for _, step in spending:
            await step(shop)
        await statement(shop)
        await books(shop)
        async with stack.services.database.transaction() as connection:
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute("UPDATE wallets SET available_minor = available_minor + 1")
        with pytest.raises(
            DemoFailed, match="the wallet has 600026 available and 0 held, but it should be 600025 and 0"
        ):
            await statement(shop)
        with pytest.raises(DemoFailed, match=f"1 breaks, the first in wallet {shop.user_id} NGN, .* 600026, held 0"):
            await books(shop)


ENTRIES: list[dict[str, Any]] = [
    {"type": "funding", "amount_minor": 900, "balance_minor": 900, "balance": "9.00"},
    {"type": "hold", "amount_minor": -250, "balance_minor": 650, "balance": "6.50"},
]
ENTRIES = [{**entry, "transaction_id": str(number), "reference": f"r{number}"} for number, entry in enumerate(ENTRIES)]


@pytest.mark.parametrize(
    ("changed", "available", "reason"),
    [
        ({}, 650, None),
        ({"balance_minor": 651}, 650, "says 6.50 after r1, which makes 650"),
        ({"balance": "6.51"}, 650, "says 6.51 after r1, which makes 650"),
        ({"amount_minor": -249}, 650, "the statement tells"),
        ({"transaction_id": "0"}, 650, "the statement tells"),
        ({}, 651, "ends with 650, but the wallet has 651"),
    ],
)
def test_a_statement_is_added_up_again(changed: dict[str, Any], available: int, reason: str | None) -> None:
    entries = [ENTRIES[0], {**ENTRIES[1], **changed}]
    expected = [("funding", 900, "0"), ("hold", -250, "1")]
    if reason is None:
        check_statement(entries, expected, available)
        return
    with pytest.raises(DemoFailed, match=reason):
        check_statement(entries, expected, available)
    with pytest.raises(DemoFailed, match="the statement tells"):
        check_statement(entries[:1], expected, available)


async def test_demo_says_in_one_sentence_what_did_not_come(run: Run, servers: dict[str, str]) -> None:
    done = await run(
        "demo",
        "--timeout",
        "4",
        **servers,
        PAYFLOW_SIMULATOR_DELIVER_WEBHOOKS="false",
        PAYFLOW_SIMULATOR_ANSWER_QUERIES="false",
    )
    assert done.code == 1
    (failed,) = [line for line in done.out.splitlines() if line.startswith("FAILED: ")]
    assert "4" in failed
    assert "payment.requires_action" in failed
    assert "Traceback" not in done.errors + done.out


async def test_dev_names_the_api_first_lets_the_demo_user_in_and_ends_cleanly(start: Start, folder: Path) -> None:
    ports = {"PAYFLOW_PORT": str(free_port()), "PAYFLOW_SIMULATOR_PORT": str(free_port())}
    for _ in range(2):  # the second start finds the data of the first
        dev = await start("dev", **ports)
        first = await dev.says("/api/v1")
        assert dev.lines == [first]
        assert first == f"http://127.0.0.1:{ports['PAYFLOW_PORT']}/api/v1"
        login = await dev.says("demo login")
        found = re.search(r"demo login\s+(\S+) / (\S+)\s+\(administrator: (\S+),", login)
        assert found is not None
        await dev.says("Ctrl-C stops it.")
        async with httpx.AsyncClient(base_url=first, trust_env=False, timeout=30) as client:
            for email, is_admin in ((found[1], False), (found[3], True)):
                answer = await client.post("/auth/login", json={"email": email, "password": found[2]})
                assert answer.status_code == 200, answer.text
                bearer = {"authorization": f"Bearer {answer.json()['access_token']}"}
                letters = await client.get("/webhooks/dead-letters", headers=bearer)
                assert letters.status_code == (200 if is_admin else 403)
            assert (await client.get("/health/ready")).status_code == 200
        code, errors = await dev.ends(signal.SIGTERM)
        assert code == 0, errors
        assert dev.lines[-1] == "Stopping."
        assert "Traceback" not in errors


async def test_dev_names_the_setting_of_a_port_in_use(run: Run, servers: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = await run("dev", **servers, PAYFLOW_PORT=str(free_port()), PAYFLOW_SIMULATOR_PORT=str(port))
    assert (done.code, done.out) == (1, "")
    (line,) = done.errors.splitlines()
    setting = f"PAYFLOW_SIMULATOR_PORT={port + 1}"
    assert line == f"payflow: Port {port} on 127.0.0.1 is in use. Stop what uses it, or choose another: {setting}"
