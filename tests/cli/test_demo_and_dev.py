"""`payflow demo` and `payflow dev`: one command, nothing to install."""

import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aio_pika
import httpx
import pytest

from tests.cli.conftest import Run, Start, free_port
from tests.house import Urls

PROVIDERS = ("paystack", "mpesa", "stripe", "flutterwave", "moniepoint", "cpay", "standardbank_pay")


def frames(out: str) -> list[list[str]]:
    """The types of the frames shown, payment by payment."""
    told: list[list[str]] = []
    for line in out.splitlines():
        if re.match(r"\[\d/\d+\]", line):
            told.append([])
        if found := re.match(r"  ws .* #(\d+|-)  (\S+)", line):
            told[-1].append(found[2])
    return told


def assert_every_payment_was_shown(out: str) -> None:
    assert [name for name in PROVIDERS if f"] {name}: " in out] == list(PROVIDERS)
    shown = frames(out)
    assert len(shown) == len(PROVIDERS)
    for payment in shown:
        events = [kind for kind in payment if kind != "snapshot"]
        assert events[0] == "payment.initiated"
        assert events[-1] == "payment.completed"
        assert events == sorted(set(events), key=events.index)
    assert "submit-otp → completed" in out
    assert f"OK: {len(PROVIDERS)} payments completed, every frame in order, GET agrees." in out


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


async def test_demo_takes_a_payment_with_each_provider_with_nothing_installed(run: Run, folder: Path) -> None:
    done = await run("demo", seconds=110)
    assert done.code == 0, done.out + done.errors
    assert_every_payment_was_shown(done.out)
    assert "embedded, data in" in done.out
    assert "the spool in PostgreSQL (no AMQP_URL)" in done.out
    assert "Traceback" not in done.errors


async def test_demo_takes_a_payment_with_each_provider_on_servers_of_ones_own(
    run: Run, broker: dict[str, str], folder: Path
) -> None:
    done = await run("demo", **broker)
    assert done.code == 0, done.out + done.errors
    assert_every_payment_was_shown(done.out)
    assert [
        f"  {part}: {name}" in done.out for part, name in (("postgres", "DATABASE_URL"), ("queue", "AMQP_URL"))
    ] == [
        True,
        True,
    ]
    assert not (folder / "data").exists()


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
