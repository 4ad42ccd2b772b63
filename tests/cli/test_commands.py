"""The commands of a real installation."""

import json
import signal
import socket

import asyncpg
import httpx
import pytest

from payflow.core.settings import DEVELOPMENT_SECRET
from payflow.infra import migrations
from payflow.infra.database import plain_url
from tests.cli.conftest import Run, Start, free_port
from tests.house import House, Urls, eventually, running_house
from tests.webhooks.desk import attempt_of, charge_success, encoded, publish, until_dead

NOWHERE = "127.0.0.1:9"


async def tables(url: str) -> set[str]:
    connection = await asyncpg.connect(plain_url(url))
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    finally:
        await connection.close()
    return {row["tablename"] for row in rows}


def environment_of(house: House) -> dict[str, str]:
    return {
        "DATABASE_URL": house.settings.database_url,
        "REDIS_URL": house.settings.redis_url,
        "AMQP_URL": house.settings.amqp_url,
        "PAYFLOW_REDIS_PREFIX": house.settings.redis_prefix,
        "PAYFLOW_QUEUE_PREFIX": house.settings.queue_prefix,
        # The house's own delays, so that no queue is declared that its end does not remove.
        "PAYFLOW_OVERTAKEN_DELAYS_SECONDS": json.dumps(house.settings.overtaken_delays_seconds),
        "PAYFLOW_LADDER_SECONDS": json.dumps(house.settings.ladder_seconds),
    }


def one_line(errors: str) -> str:
    (line,) = errors.splitlines()
    assert line.startswith("payflow: ")
    return line


# Database


async def test_migrate_brings_an_empty_database_up_and_a_second_time_changes_nothing(
    run: Run, servers: dict[str, str]
) -> None:
    for _ in range(2):
        done = await run("migrate", **servers)
        assert (done.code, done.out) == (0, "The database is at head."), done.errors
    whole = await tables(servers["DATABASE_URL"])
    assert {"transactions", "attempts", "events", "webhook_events", "queue_messages", "dead_letters"} <= whole


async def test_the_migrations_can_go_back_to_the_beginning_and_up_again(servers: dict[str, str]) -> None:
    url = servers["DATABASE_URL"]
    await migrations.upgrade(url)
    whole = await tables(url)
    await migrations.downgrade(url, "base")
    assert await tables(url) <= {"alembic_version"}
    await migrations.upgrade(url)
    assert await tables(url) == whole


async def test_migrate_says_in_one_line_that_there_is_no_database(run: Run) -> None:
    done = await run("migrate", DATABASE_URL=f"postgresql://nobody@{NOWHERE}/none", REDIS_URL="redis://localhost")
    assert done.code == 1
    assert "PostgreSQL" in one_line(done.errors)


async def test_an_url_of_another_kind_of_database_is_refused_in_one_line(run: Run) -> None:
    done = await run("migrate", DATABASE_URL="mysql://localhost/payflow", REDIS_URL="redis://localhost")
    assert done.code == 1
    assert one_line(done.errors) == (
        "payflow: DATABASE_URL must begin with postgresql:// (PostgreSQL is the only database)."
    )


# Settings


async def test_a_command_of_a_real_installation_says_what_must_be_set(run: Run) -> None:
    done = await run("api")
    assert done.code == 1
    assert one_line(done.errors) == (
        "payflow: DATABASE_URL and REDIS_URL must be set. Without servers of your own, use `payflow dev`."
    )


async def test_production_refuses_the_secrets_of_development(run: Run) -> None:
    done = await run(
        "api",
        PAYFLOW_ENVIRONMENT="production",
        PAYFLOW_SECRET_KEY=DEVELOPMENT_SECRET,
        DATABASE_URL="postgresql://db/payflow",
        REDIS_URL="redis://redis",
        PAYFLOW_PROVIDER_CREDENTIALS='{"paystack": {"secret_key": "sk_test_simulator_paystack"}}',
    )
    assert done.code == 1
    line = one_line(done.errors)
    for reason in (
        "refusing to start in production",
        "PAYFLOW_SECRET_KEY must be set to at least 32 characters of its own",
        "AMQP_URL must be set",
        "the credentials of paystack are the simulator's",
    ):
        assert reason in line
    assert DEVELOPMENT_SECRET not in line
    assert "sk_test" not in line


async def test_the_simulator_refuses_to_run_in_production(run: Run) -> None:
    done = await run("simulator", PAYFLOW_ENVIRONMENT="production")
    assert done.code == 1
    assert "refuses to run" in one_line(done.errors)


# Administrators and documents


async def test_create_admin_makes_one_who_can_log_in_and_refuses_a_second(run: Run, urls: Urls) -> None:
    async with running_house(urls, worker=False, amqp_url="") as house:
        arguments = ("create-admin", "--email", "root@example.com", "--name", "Root", "--password", "correct horse 1")
        done = await run(*arguments, **environment_of(house))
        assert done.code == 0, done.errors
        assert done.out.startswith("Made administrator root@example.com (")
        assert "correct horse" not in done.out + done.errors
        login = await house.client().post(
            "/api/v1/auth/login", json={"email": "root@example.com", "password": "correct horse 1"}
        )
        assert login.status_code == 200
        bearer = {"authorization": f"Bearer {login.json()['access_token']}"}
        assert (await house.client(**bearer).get("/api/v1/webhooks/dead-letters")).status_code == 200
        again = await run(*arguments, **environment_of(house))
        assert again.code == 1
        one_line(again.errors)


async def test_openapi_prints_the_document_without_any_server(run: Run) -> None:
    done = await run("openapi")
    assert done.code == 0, done.errors
    document = json.loads(done.out)
    assert document["openapi"].startswith("3.1")
    assert "/api/v1/payments/initialize" in document["paths"]
    assert "/api/v1/webhooks/{provider}" in document["paths"]


# Doctor


async def test_doctor_finds_everything_well(run: Run, urls: Urls) -> None:
    async with running_house(urls, worker=False) as house:
        key = '{"paystack": {"secret_key": "sk_test_abcdefgh"}}'
        done = await run("doctor", **environment_of(house), PAYFLOW_PROVIDER_CREDENTIALS=key)
        assert done.code == 0, done.out + done.errors
        assert [line for line in done.out.splitlines() if line.startswith("ok ")] == [
            "ok    database",
            "ok    redis",
            "ok    rabbitmq",
            "ok    spool",
            "ok    provider paystack",
        ]
        assert "DOWN" not in done.out
        assert "-     provider stripe: not configured" in done.out
        assert "sk_test" not in done.out + done.errors


async def test_doctor_names_what_is_down(run: Run, urls: Urls) -> None:
    done = await run(
        "doctor",
        DATABASE_URL=f"postgresql://nobody@{NOWHERE}/none",
        REDIS_URL=f"redis://{NOWHERE}/0",
        AMQP_URL=f"amqp://{NOWHERE}/",
    )
    assert done.code == 1
    down = {line.split()[1].rstrip(":") for line in done.out.splitlines() if line.startswith("DOWN")}
    assert down == {"database", "redis", "rabbitmq", "spool"}
    assert "Traceback" not in done.errors


# Dead letters


async def test_dead_letters_are_listed_and_replayed_from_the_command_line(run: Run, urls: Urls) -> None:
    async with running_house(
        urls, simulator={"automatic_customer": False}, ladder_seconds=(0.1,), overtaken_delays_seconds=(0.1,)
    ) as house:
        ada = await house.merchant()
        payment = await ada.payment((await ada.pay("paystack"))["id"])
        reference = attempt_of(payment)["reference"]
        hidden = "att" + "z" * 26
        async with house.services.database.raw() as connection:
            await connection.execute("UPDATE attempts SET reference = $1 WHERE reference = $2", hidden, reference)
        await publish(house, "paystack", encoded(charge_success(reference)))
        (letter,) = await until_dead(house)
        async with house.services.database.raw() as connection:
            await connection.execute("UPDATE attempts SET reference = $2 WHERE reference = $1", hidden, reference)
        environment = environment_of(house)
        listed = await run("dead-letters", "list", **environment)
        assert listed.code == 0, listed.errors
        (line,) = listed.out.splitlines()
        assert line.startswith(str(letter.id))
        assert line.endswith("paystack     given up after the last rung: no such attempt")
        replayed = await run("dead-letters", "replay", str(letter.id), **environment)
        assert (replayed.code, replayed.out) == (0, f"Replayed as message {letter.message.id}."), replayed.errors
        await house.until(ada, payment["id"], "completed")
        again = await run("dead-letters", "replay", str(letter.id), **environment)
        assert (again.code, one_line(again.errors)) == (1, "payflow: This dead letter has already been replayed.")


async def test_a_replay_while_the_broker_is_away_goes_to_the_spool(run: Run, urls: Urls) -> None:
    async with running_house(urls, amqp_url="") as house:
        await publish(house, "paystack", b"not json")
        (letter,) = await until_dead(house)
        environment = {**environment_of(house), "AMQP_URL": f"amqp://guest:guest@{NOWHERE}/"}
        replayed = await run("dead-letters", "replay", str(letter.id), **environment)
        assert (replayed.code, replayed.out) == (0, f"Replayed as message {letter.message.id}."), replayed.errors
        await until_dead(house)  # as unreadable as before


# Servers


async def up(url: str) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("command", ["api", "simulator"])
async def test_a_server_starts_answers_and_ends_when_told(start: Start, urls: Urls, command: str) -> None:
    port = free_port()
    async with running_house(urls, worker=False, amqp_url="") as house:
        more: dict[str, str] = {"PAYFLOW_PORT": str(port), "PAYFLOW_SIMULATOR_PORT": str(port)}
        server = await start(command, **environment_of(house), **more)
        path = {"api": "/api/v1/health/ready", "simulator": "/_control/outcomes"}[command]
        await eventually(lambda: up(f"http://127.0.0.1:{port}{path}"), seconds=40)
        code, errors = await server.ends(signal.SIGTERM)
        assert code == 0, errors
        assert "Traceback" not in errors


async def test_a_server_names_the_setting_of_a_port_in_use(run: Run, servers: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = await run("api", **servers, PAYFLOW_PORT=str(port))
    assert done.code == 1
    assert one_line(done.errors) == (
        f"payflow: Port {port} on 127.0.0.1 is in use. Stop what uses it, or choose another: PAYFLOW_PORT={port + 1}"
    )


async def test_the_worker_works_and_ends_when_told(start: Start, urls: Urls) -> None:
    async with running_house(urls, worker=False, simulator={"automatic_customer": False}) as house:
        ada = await house.merchant()
        payment = await ada.payment((await ada.pay("paystack"))["id"])
        worker = await start("worker", **environment_of(house))
        await publish(house, "paystack", encoded(charge_success(attempt_of(payment)["reference"])))
        await house.until(ada, payment["id"], "completed", seconds=40)
        code, errors = await worker.ends(signal.SIGTERM)
        assert code == 0, errors
        told = [json.loads(line) for line in errors.splitlines()]
        assert [entry["event"] for entry in told if entry["event"].startswith("worker.")] == [
            "worker.started",
            "worker.stopping",
        ]
