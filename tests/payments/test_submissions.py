"""`POST /payments/{id}/submit-otp`: what the customer was asked for goes to the provider, once, and stays nowhere."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from payflow.core.clock import utc_now
from payflow.gateway.contract import ActionType, Failure, NextAction, Result, Verdict
from tests.house import House, Merchant, Urls, eventually, running_house

RIGHT, WRONG = "123456", "908172"
BY_HAND: dict[str, Any] = {"simulator": {"automatic_customer": False}, "timer_interval_seconds": 3_600.0}


@pytest.fixture
async def shop(urls: Urls) -> AsyncIterator[House]:
    async with running_house(urls, amqp_url="", **BY_HAND) as house:
        yield house


@pytest.fixture
async def ada(shop: House) -> Merchant:
    return await shop.merchant()


async def waiting(ada: Merchant) -> dict[str, Any]:
    payment = await ada.pay("cpay", method="otp")
    assert (payment["status"], payment["next_action"]["type"]) == ("requires_action", "otp")
    return payment


async def submit(
    ada: Merchant, payment: dict[str, Any], otp: str = RIGHT, *, key: str = "k1", **body: Any
) -> httpx.Response:
    return await ada.post(f"/payments/{payment['id']}/submit-otp", key=key, json=body or {"otp": otp})


async def confirmations(shop: House) -> int:
    listed = (await shop.simulator.get("/_control/requests", params={"provider": "cpay"})).json()["requests"]
    return sum(request["path"].endswith("/confirm") for request in listed)


async def test_the_right_otp_completes(shop: House, ada: Merchant) -> None:
    payment = await waiting(ada)
    answer = await submit(ada, payment)
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert answer.json()["next_action"] is None
    whole = await ada.payment(payment["id"])
    assert [event["type"] for event in whole["timeline"]] == [
        "payment.initiated",
        "payment.requires_action",
        "payment.completed",
    ]
    assert whole["attempts"][0]["status"] == "succeeded"


async def test_a_wrong_otp_asks_again_and_the_right_one_still_completes(shop: House, ada: Merchant) -> None:
    payment = await waiting(ada)
    again = await submit(ada, payment, WRONG)
    assert (again.status_code, again.json()["status"]) == (200, "requires_action")
    assert "wrong" in again.json()["next_action"]["display_text"].lower()
    assert (await submit(ada, payment, key="k2")).json()["status"] == "completed"
    types = [event["type"] for event in (await ada.payment(payment["id"]))["timeline"]]
    assert types == ["payment.initiated", "payment.requires_action", "payment.requires_action", "payment.completed"]


async def test_a_key_stands_for_its_first_answer_and_sends_nothing_again(shop: House, ada: Merchant) -> None:
    payment = await waiting(ada)
    first = await submit(ada, payment)
    again = await submit(ada, payment)
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert (await submit(ada, payment, WRONG)).content == first.content  # the code is no part of the fingerprint
    assert (await submit(ada, payment, pin="1234")).json()["code"] == "idempotency_key_reused"
    assert await confirmations(shop) == 1


async def test_many_at_once_with_one_key_confirm_once(shop: House, ada: Merchant) -> None:
    payment = await waiting(ada)
    answers = await asyncio.gather(*(submit(ada, payment) for _ in range(20)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"in_flight"}
    assert await confirmations(shop) == 1


async def test_many_keys_at_once_are_passed_on_one_at_a_time(shop: House, ada: Merchant) -> None:
    payment = await waiting(ada)
    provider: Any = shop.services.registry.get("cpay")
    passing = most = 0
    real = provider.submit

    async def slow(*arguments: Any) -> Result:
        nonlocal passing, most
        passing += 1
        most = max(most, passing)
        await asyncio.sleep(0.05)
        result: Result = await real(*arguments)
        passing -= 1
        return result

    provider.submit = slow
    answers = await asyncio.gather(*(submit(ada, payment, key=f"k{number}") for number in range(10)))
    codes = sorted((answer.status_code, answer.json().get("code", answer.json().get("status"))) for answer in answers)
    assert most == 1
    assert codes.count((200, "completed")) == 1
    assert {code for _, code in codes} <= {"completed", "in_flight", "nothing_to_submit"}


async def test_who_was_overtaken_passes_nothing_on(shop: House, ada: Merchant) -> None:
    """It saw that the payment waits; when its turn comes, what another one gave has completed it."""
    payment = await waiting(ada)
    path = f"/api/v1/payments/{payment['id']}/submit-otp"
    async with shop.services.database.raw() as raw:
        # Somebody is taking the second one's key, so it waits between what it read and its turn.
        taking = raw.transaction()
        await taking.start()
        await raw.execute(
            "INSERT INTO idempotency_keys (principal, method, path, key, fingerprint, transaction_id, lease_until, expires_at)"
            " VALUES ($1, 'POST', $2, 'late', '', gen_random_uuid(), now(), now())",
            ada.id,
            path,
        )
        late = asyncio.create_task(submit(ada, payment, key="late"))

        async def waits() -> bool:
            return bool(
                await shop.rows(
                    "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            )

        await eventually(waits, what="the second one at its key")
        assert (await submit(ada, payment, key="first")).json()["status"] == "completed"
        await taking.rollback()
    refused = await late
    assert (refused.status_code, refused.json()["code"]) == (409, "nothing_to_submit")
    assert await confirmations(shop) == 1
    assert await shop.rows("SELECT 1 FROM idempotency_keys WHERE key = 'late'") == []
    assert await shop.rows("SELECT 1 FROM attempts WHERE submitting_until IS NOT NULL") == []


@pytest.mark.parametrize(("body", "status"), [({}, 422), ({"otp": "1", "pin": "2"}, 422), ({"otp": ""}, 422)])
async def test_exactly_one_thing_is_given(ada: Merchant, body: dict[str, Any], status: int) -> None:
    payment = await waiting(ada)
    answer = await ada.post(f"/payments/{payment['id']}/submit-otp", key="k", json=body)
    assert answer.status_code == status


async def test_what_nobody_asked_for_is_refused(shop: House, ada: Merchant) -> None:
    payment = await waiting(ada)
    answer = await submit(ada, payment, pin="1234")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_submit")
    page = await ada.pay("paystack")
    assert (await submit(ada, page)).json()["code"] == "nothing_to_submit"
    assert (await submit(await shop.merchant(), payment)).status_code == 404
    missing = await ada.post(f"/payments/{payment['id']}/submit-otp", json={"otp": RIGHT})
    assert missing.json()["code"] == "idempotency_key_missing"
    assert await confirmations(shop) == 0
    assert (await submit(ada, payment)).json()["status"] == "completed"


async def test_without_an_answer_the_payment_is_processing_and_asked_about(shop: House, ada: Merchant) -> None:
    payment = await waiting(ada)
    provider: Any = shop.services.registry.get("cpay")
    real = provider.submit

    async def lost(*arguments: Any) -> Result:
        await real(*arguments)
        return Result(Verdict.UNKNOWN, raw_status="ReadTimeout")

    provider.submit = lost
    answer = await submit(ada, payment)
    assert (answer.status_code, answer.json()["status"]) == (200, "processing")
    assert answer.json()["next_check_at"] is not None
    assert (await submit(ada, payment, key="k2")).json()["code"] == "nothing_to_submit"
    assert (await ada.post(f"/payments/{payment['id']}/verify")).json()["status"] == "completed"
    assert await confirmations(shop) == 1


@pytest.mark.parametrize(
    ("result", "status", "code"),
    [
        (Result(Verdict.NOT_SENT), 502, "provider_unavailable"),
        (Result(Verdict.REFUSED, failure=Failure("rate_limited", "Busy.")), 409, "not_accepted"),
    ],
)
async def test_what_never_happened_uses_no_key_up(
    shop: House, ada: Merchant, result: Result, status: int, code: str
) -> None:
    payment = await waiting(ada)
    provider: Any = shop.services.registry.get("cpay")
    real = provider.submit

    async def nothing(*_: Any) -> Result:
        return result

    provider.submit = nothing
    answer = await submit(ada, payment)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    provider.submit = real
    assert (await submit(ada, payment)).json()["status"] == "completed"


async def test_an_adapter_that_breaks_leaves_no_trace_of_the_code(
    shop: House, ada: Merchant, capsys: pytest.CaptureFixture[str]
) -> None:
    payment = await waiting(ada)

    async def broken(_query: Any, submission: Any, _credentials: Any) -> Result:
        raise ValueError(f"cannot send {submission.value.get_secret_value()}")

    provider: Any = shop.services.registry.get("cpay")
    provider.submit = broken
    assert (await submit(ada, payment, WRONG)).json()["status"] == "processing"
    told = capsys.readouterr()
    assert "submission.adapter_failed" in told.out + told.err
    assert WRONG not in told.out + told.err


async def test_the_next_thing_may_be_asked_for(shop: House, ada: Merchant) -> None:
    payment = await waiting(ada)

    async def then_pin(*_: Any) -> Result:
        return Result(Verdict.REQUIRES_ACTION, next_action=NextAction(ActionType.PIN, display_text="Enter your PIN."))

    provider: Any = shop.services.registry.get("cpay")
    provider.submit = then_pin
    answer = (await submit(ada, payment)).json()
    assert (answer["status"], answer["next_action"]["type"]) == ("requires_action", "pin")
    assert (await submit(ada, payment, key="k2")).json()["code"] == "nothing_to_submit"
    assert (await submit(ada, payment, key="k3", pin="1234")).status_code == 200


async def test_a_process_that_died_leaves_the_key_and_the_attempt_usable_after_the_lease(
    shop: House, ada: Merchant
) -> None:
    payment = await waiting(ada)
    provider: Any = shop.services.registry.get("cpay")
    real = provider.submit

    class Killed(BaseException):
        pass

    async def dies(*_: Any) -> Result:
        raise Killed

    provider.submit = dies
    with pytest.raises(Killed):
        await submit(ada, payment)
    provider.submit = real
    assert (await submit(ada, payment)).json()["code"] == "in_flight"
    assert (await submit(ada, payment, key="k2")).json()["code"] == "in_flight"
    async with shop.services.database.raw() as connection:
        past = utc_now().replace(year=2020)
        await connection.execute("UPDATE attempts SET submitting_until = $1", past)
        await connection.execute("UPDATE idempotency_keys SET lease_until = $1 WHERE status_code IS NULL", past)
    replayed = await submit(ada, payment)
    assert (replayed.headers["idempotent-replayed"], replayed.json()["status"]) == ("true", "requires_action")
    assert (await submit(ada, payment, key="k2")).json()["status"] == "completed"


async def test_the_code_stands_in_no_table_and_no_cache(urls: Urls) -> None:
    async with running_house(urls, **BY_HAND) as house:
        ada = await house.merchant()
        payment = await waiting(ada)
        await submit(ada, payment, WRONG)
        await submit(ada, payment, key="k2")
        tables = await house.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for table in tables:
            rows = await house.rows(f'SELECT t::text AS row FROM "{table["tablename"]}" t')
            assert [row for row in rows if WRONG in row["row"]] == [], table
        async for name in house.services.redis.scan_iter(match=house.settings.redis_prefix + "*"):
            assert WRONG.encode() not in (await house.services.redis.dump(name) or b"")
