"""The commands of a real installation."""

import json
import signal
import socket
from pathlib import Path

import asyncpg
import httpx
import pytest

from payflow.core.settings import DEVELOPMENT_SECRET
from payflow.infra import migrations
from payflow.infra.database import plain_url
from tests.cli.conftest import Run, Start, free_port
from tests.house import SECRET, House, Urls, eventually, running_house
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


# Stored credentials


NEW_KEY = "a-new-key-0123456789abcdef0123456789"


async def test_rotate_keys_says_what_it_does_and_the_former_key_can_go(run: Run, urls: Urls) -> None:
    async with running_house(urls, worker=False, amqp_url="") as house:
        admin = await house.merchant(admin=True)
        await admin.post("/providers/paystack/config", json={"secret_key": "sk_test_abcdefgh"})
        (row,) = await house.rows("SELECT id, key_id FROM provider_configs")
        alone = {**environment_of(house), "PAYFLOW_CREDENTIALS_KEY": NEW_KEY}
        both = {**alone, "PAYFLOW_FORMER_CREDENTIALS_KEYS": json.dumps([SECRET])}
        refused = await run("rotate-keys", **alone)
        assert (refused.code, refused.errors) == (1, "")
        assert "cannot be opened with these keys" in refused.out
        rehearsed = await run("rotate-keys", "--dry-run", **both)
        assert (rehearsed.code, rehearsed.out.splitlines()[-1]) == (0, "Rows: 1 would be sealed anew."), (
            rehearsed.errors
        )
        assert await house.rows("SELECT id, key_id FROM provider_configs") == [row]
        done = await run("rotate-keys", **both)
        assert (done.code, done.errors) == (0, "")
        assert done.out.splitlines()[1].startswith(f"1/1  paystack         {row['id']}  key {row['key_id']}")
        assert done.out.splitlines()[2:] == [
            "Rows: 1 sealed anew.",
            "PAYFLOW_FORMER_CREDENTIALS_KEYS can be emptied.",
        ]
        again = await run("rotate-keys", **alone)
        assert (again.code, again.out.splitlines()[2]) == (0, "Rows: 1 is under the current key.")
        for told in (refused, rehearsed, done, again):
            assert not any(secret in told.out for secret in (NEW_KEY, SECRET, "sk_test"))


async def test_import_credentials_stores_what_the_environment_holds_once(run: Run, urls: Urls) -> None:
    key = json.dumps({"paystack": {"secret_key": "sk_test_abcdefgh"}})
    async with running_house(urls, worker=False, amqp_url="") as house:
        environment = {**environment_of(house), "PAYFLOW_SECRET_KEY": SECRET, "PAYFLOW_PROVIDER_CREDENTIALS": key}
        await house.services.identity.create_admin("root@example.com", "correct horse 1", "Root")
        nobody = await run("import-credentials", "--admin", "nobody@example.com", **environment)
        assert (nobody.code, one_line(nobody.errors)) == (
            1,
            "payflow: There is no administrator with this email.",
        )
        assert await house.rows("SELECT id FROM provider_configs") == []
        done = await run("import-credentials", "--admin", "Root@example.com", **environment)
        (row,) = await house.rows("SELECT id FROM provider_configs")
        assert (done.code, done.out) == (0, f"paystack: stored as {row['id']}"), done.errors
        again = await run("import-credentials", "--admin", "root@example.com", **environment)
        assert (again.code, again.out) == (0, "paystack: kept what is stored")
        house.services.credentials.forget()
        known = await house.services.registry.credentials("paystack")
        assert known is not None
        assert known.current.model_dump()["secret_key"].get_secret_value() == "sk_test_abcdefgh"


async def test_the_support_matrix_is_printed_and_written_where_a_checkout_is(run: Run, folder: Path) -> None:
    printed = await run("support-matrix")
    assert (printed.code, printed.errors) == (0, "")
    assert printed.out.startswith("# What each provider can do")
    nowhere = await run("support-matrix", "--write")
    assert (nowhere.code, one_line(nowhere.errors)) == (
        1,
        "payflow: There is no folder docs here: run it in a checkout.",
    )
    docs = folder / "docs"
    docs.mkdir()
    assert (await run("support-matrix", "--write")).code == 0
    assert (docs / "support-matrix.md").read_text() == printed.out + "\n"


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


# URLs that a provider has to be told


MPESA = {
    "consumer_key": "simulator_consumer_key",
    "consumer_secret": "simulator_consumer_secret",
    "shortcode": "174379",
}


async def test_register_c2b_tells_the_provider_both_urls_once_and_keeps_them_to_itself(
    run: Run, start: Start, urls: Urls
) -> None:
    port = free_port()
    simulator = f"http://127.0.0.1:{port}"
    async with running_house(urls, worker=False, amqp_url="") as house, httpx.AsyncClient(base_url=simulator) as client:
        server = await start("simulator", PAYFLOW_SIMULATOR_PORT=str(port))
        await eventually(lambda: up(f"{simulator}/_control/outcomes"), seconds=40)
        await client.post("/_control/settings", json={"mpesa_register_urls_once": True, "deliver_webhooks": False})
        environment = {
            **environment_of(house),
            "PAYFLOW_SECRET_KEY": SECRET,
            "PAYFLOW_PUBLIC_URL": "http://pay.example",
            "PAYFLOW_PROVIDER_BASE_URLS": json.dumps({"mpesa": f"{simulator}/mpesa"}),
            "PAYFLOW_PROVIDER_CREDENTIALS": json.dumps({"mpesa": MPESA | {"passkey": "a-passkey-of-the-tests"}}),
        }
        done = await run("register-c2b", **environment)
        assert done.code == 0, done.errors
        assert done.out == "mpesa: payments nobody ordered are told to http://pay.example from now on."
        requests = (await client.get("/_control/requests", params={"provider": "mpesa"})).json()["requests"]
        assert [row["path"] for row in requests].count("/mpesa/c2b/v2/registerurl") == 1
        again = await run("register-c2b", "mpesa", **environment)
        assert (again.code, "delete them on the portal" in one_line(again.errors)) == (1, True)
        assert "webhooks/lipa" not in done.out + done.errors + again.errors
        await server.ends(signal.SIGTERM)


async def test_register_c2b_names_who_has_such_urls_and_who_is_not_configured(
    run: Run, servers: dict[str, str]
) -> None:
    await migrations.upgrade(servers["DATABASE_URL"])
    other = await run("register-c2b", "paystack", **servers)
    assert (other.code, one_line(other.errors)) == (1, "payflow: name one of: mpesa")
    bare = await run("register-c2b", **servers)
    assert (bare.code, one_line(bare.errors)) == (1, "payflow: mpesa is not configured.")


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
        which = ("--provider", "paystack", "--reason", "given up")
        shown = await run("dead-letters", "replay", *which, "--dry-run", **environment)
        assert (shown.code, shown.out) == (0, f"{line}\n1 would be replayed."), shown.errors
        replayed = await run("dead-letters", "replay", *which, **environment)
        assert (replayed.code, replayed.out) == (0, "1 of 1 replayed."), replayed.errors
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
