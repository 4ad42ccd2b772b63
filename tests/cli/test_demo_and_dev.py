"""`payflow demo` and `payflow dev`: one command, nothing to install."""

import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import httpx
import pytest

from payflow.bootstrap import Services, build_services
from payflow.cli.demo import Demo, demo_settings, drained
from payflow.cli.shop import DemoFailed
from payflow.cli.stack import running_stack
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


def table(out: str) -> list[list[str]]:
    """The cells of the table at the end, but for the number of events; cut where its columns are."""
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("what "))
    columns = [match.span() for match in re.finditer("-+", lines[start + 1])]
    head, *rows = [[line[begin:end].strip() for begin, end in columns] for line in _block(lines[start:])]
    assert all(int(row[5]) >= 2 for row in rows)
    return [row[:5] + row[6:] for row in (head, *rows)]


def _block(lines: list[str]) -> list[str]:
    return [line for line in lines[: lines.index("")] if not line.startswith("---")]


def assert_all_was_shown(out: str) -> None:
    assert [name for name in PROVIDERS if f"] {name}: " in out] == list(PROVIDERS)
    shown = [
        events for payment in frames(out) if (events := [kind for kind in payment if kind != "snapshot"])
    ]  # giving money back is not watched
    assert len(shown) == len(PROVIDERS) + 4
    for events in shown:
        assert events[0] == "payment.initiated"
        assert events[-1] == "payment.completed"
        assert [kind for kind in events if kind == events[0]] == events[:1]
    assert "submit-otp birthday → requires_action  otp" in out
    assert out.count("submit-otp otp → completed") == 2
    assert out.count("…/refunds/… → completed") == 3
    assert [out.count(f": {status}, 5000.00 NGN") for status in ("partially_refunded", "refunded")] == [1, 1]
    assert "Chosen: moniepoint, fits; number 3 in the order; flutterwave was skipped: drained" in out
    assert "Attempts: flutterwave refused, moniepoint succeeded" in out
    assert table(out) == TABLE
    assert out.endswith("OK: 11 payments and 3 refunds completed, every frame in order, GET agrees.")


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


@pytest.mark.parametrize(
    ("provider", "outcome", "reason"),
    [
        ("paystack", "decline", "the refund ended failed: The refund failed."),
        ("stripe", "silent", "the refund did not end within 4 s (last seen: processing)"),
    ],
)
async def test_demo_fails_when_money_does_not_go_back(
    servers: dict[str, str], capsys: pytest.CaptureFixture[str], provider: str, outcome: str, reason: str
) -> None:
    settings = Settings(
        _env_file=None,
        database_url=servers["DATABASE_URL"],
        redis_url=servers["REDIS_URL"],
        redis_prefix=servers["PAYFLOW_REDIS_PREFIX"],
        log_level="ERROR",
    )
    async with running_stack(demo_settings(settings), any_port=True) as stack:
        async with httpx.AsyncClient(base_url=stack.simulator_url, trust_env=False) as simulator:
            order = {"provider": provider, "outcome": outcome, "operation": "refund"}
            assert (await simulator.post("/_control/outcomes", json=order)).is_success
        assert await Demo(stack, timeout_seconds=4).run() == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"FAILED: {reason}"
    assert "OK: " not in out


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
