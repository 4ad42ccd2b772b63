"""M-Pesa's C2B: payments that a customer starts alone are asked about at the door, and are in the books once."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from structlog.testing import capture_logs

from payflow.core.clock import utc_now
from payflow.core.money import Money
from payflow.gateway.contract import ValidationRequest
from payflow.gateway.signing import confirmation_id, validation_id
from payflow.infra.queue.port import WEBHOOKS, Message
from payflow.webhooks.processing import Disposition, Ending
from payflow.webhooks.validation import Validations
from tests.house import House, Merchant, Urls, eventually, running_house
from tests.webhooks.desk import (
    Relay,
    attempt_of,
    books,
    callback_token,
    counted,
    encoded,
    journals,
    kept_bodies,
    send,
    send_mpesa,
    steady,
    stk_callback,
    story,
    until_counted,
    until_dead,
    waiting,
)

BY_HAND: dict[str, Any] = {
    "simulator": {"automatic_customer": False, "deliver_webhooks": False},
    "timer_interval_seconds": 3_600.0,
    "amqp_url": "",
}
CONFIRMATION, VALIDATION = (callback_token(str(make("mpesa"))) for make in (confirmation_id, validation_id))
PAST_THE_SHORT_RUNGS, LAST = 2, 7
ACCEPTED = {"ResultCode": "0", "ResultDesc": "Accepted"}
REFUSED = {"ResultCode": "C2B00016", "ResultDesc": "Rejected"}
REASON = "Found out whose it is."


@pytest.fixture
async def desk(urls: Urls) -> AsyncIterator[House]:
    """A house where nothing happens by itself: the test brings what Safaricom would."""
    async with running_house(urls, **BY_HAND) as house:
        yield house


@pytest.fixture
async def shop(urls: Urls) -> AsyncIterator[House]:
    """A house whose simulator has our C2B URLs."""
    async with running_house(urls, amqp_url="") as house:
        await register(house)
        yield house


async def register(house: House) -> None:
    provider, urls = house.services.registry.get("mpesa"), house.services.callback_urls
    credentials = await house.services.registry.credentials("mpesa")
    assert provider is not None
    assert credentials is not None
    declaration = provider.declaration
    result = await provider.register_c2b_urls(  # type: ignore[attr-defined]
        urls.confirmation(declaration), urls.validation(declaration), credentials.current
    )
    assert result.verdict == "completed", result


def confirmation(receipt: str, shillings: int = 250, account: str = "invoice 17", balance: str = "9125.00") -> Any:
    """Daraja's confirmation; with a blank balance it is a validation."""
    return {
        "TransactionType": "Pay Bill",
        "TransID": receipt,
        "TransTime": "20261121102115",
        "TransAmount": f"{shillings}.00",
        "BusinessShortCode": "174379",
        "BillRefNumber": account,
        "InvoiceNumber": "",
        "OrgAccountBalance": balance,
        "ThirdPartyTransID": "",
        "MSISDN": "2547 ***** 149",
        "FirstName": "NICHOLAS",
        "MiddleName": "",
        "LastName": "",
    }


def asked(shillings: int = 250, account: str = "invoice 17") -> Any:
    return confirmation(f"SKV{uuid4().hex[:7].upper()}", shillings, account, balance="")


async def work(
    house: House, body: Any, rung: int = PAST_THE_SHORT_RUNGS, attempt_id: UUID | str | None = None
) -> Disposition:
    """Bring a message straight to the worker's desk, by default one of the confirmation URL."""
    headers = {
        "provider": "mpesa",
        "received_at": utc_now().isoformat(),
        "attempt_id": str(attempt_id or confirmation_id("mpesa")),
    }
    (end,) = await house.services.webhooks.process([Message(str(uuid4()), encoded(body), headers, rung)])
    return end


def account_of(payment: dict[str, Any]) -> str:
    return str(attempt_of(payment)["reference"][-12:])


async def unordered(house: House) -> list[dict[str, Any]]:
    return await house.rows(
        """
        SELECT t.id::text AS id, t.user_id::text AS user_id, t.status, t.amount_minor, t.metadata, a.receipt,
               a.status AS attempt_status, a.provider_references
        FROM transactions t JOIN attempts a ON a.transaction_id = t.id
        WHERE a.routing ->> 'reason' = 'the customer paid without an order' ORDER BY t.id
        """
    )


async def assert_the_books_balance(house: House) -> None:
    assert sum((await books(house)).values()) == 0


@dataclass
class Alone:
    """A customer of the simulator who pays from the phone's own menu."""

    house: House
    token: str = field(default="", repr=False)

    async def pay(self, shillings: int = 250, account: str = "invoice 17") -> None:
        settings = self.house.simulator_settings
        if not self.token:
            known = b64encode(f"{settings.mpesa_consumer_key}:{settings.mpesa_consumer_secret}".encode()).decode()
            answer = await self.house.simulator.get(
                "/mpesa/oauth/v1/generate?grant_type=client_credentials", headers={"authorization": f"Basic {known}"}
            )
            self.token = answer.json()["access_token"]
        body = {
            "ShortCode": settings.mpesa_shortcode,
            "CommandID": "CustomerPayBillOnline",
            "Amount": shillings,
            "Msisdn": 254708374149,
            "BillRefNumber": account,
        }
        answer = await self.house.simulator.post(
            "/mpesa/mpesa/c2b/v2/simulate", json=body, headers={"authorization": f"Bearer {self.token}"}
        )
        assert answer.is_success, answer.text

    async def told(self, event: str) -> list[dict[str, Any]]:
        rows = (await self.house.simulator.get("/_control/webhooks", params={"provider": "mpesa"})).json()["webhooks"]
        return [row for row in rows if row["event"] == event and row["attempts"]]

    async def until_told(self, event: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        async def there() -> bool:
            found[:] = await self.told(event)
            return bool(found)

        await eventually(there, what=event)
        return found[0]


# Money nobody ordered


async def test_a_payment_nobody_ordered_is_under_review_once_though_it_is_told_thrice(shop: House) -> None:
    admin = await shop.merchant(admin=True)
    await shop.merchant(admin=True)  # a younger one
    alone = Alone(shop)
    await alone.pay(500, "invoice 17")
    delivery = await alone.until_told("c2b confirmation")
    again = f"/_control/webhooks/{delivery['id']}/redeliver"
    await asyncio.gather(*(shop.simulator.post(again) for _ in range(2)))
    await until_counted(shop, "mpesa", "duplicate", 2)
    (row,) = await unordered(shop)
    assert (row["user_id"], row["status"], row["amount_minor"]) == (admin.id, "under_review", 50_000)
    payment = await admin.payment(row["id"])
    assert [(event["type"], event["sequence"], event["data"]["reason"]) for event in payment["timeline"]] == [
        ("payment.under_review", 1, "unordered_payment")
    ]
    assert payment["metadata"] == {"account_reference": "invoice 17"}
    assert (row["receipt"], row["attempt_status"]) == (json.loads(delivery["body"])["TransID"], "under_review")
    assert await books(shop) == {"provider_clearing:mpesa": 50_000, "suspense": -50_000}
    assert await journals(shop) == ["suspended"]
    assert counted(shop, "mpesa", "settled") == 1


async def test_the_same_confirmation_at_many_workers_at_once_is_recorded_once(desk: House) -> None:
    await desk.merchant(admin=True)
    body = confirmation("SKC0000001", 300)
    ends = await asyncio.gather(*(work(desk, body) for _ in range(8)))
    assert {end.ending for end in ends} == {Ending.DONE}
    assert [counted(desk, "mpesa", word) for word in ("settled", "duplicate")] == [1, 7]
    assert [row["receipt"] for row in await unordered(desk)] == ["SKC0000001"]
    assert await books(desk) == {"provider_clearing:mpesa": 30_000, "suspense": -30_000}
    (seen,) = await desk.rows("SELECT dedupe_key, outcome, transaction_id::text AS id FROM webhook_events")
    assert (seen["dedupe_key"], seen["outcome"]) == ("c2b:SKC0000001", "settled")
    assert seen["id"] == (await unordered(desk))[0]["id"]


async def test_a_first_delivery_waits_on_the_short_rungs(desk: House) -> None:
    await desk.merchant(admin=True)
    for rung, delay in enumerate(desk.settings.overtaken_delays_seconds):
        end = await work(desk, confirmation("SKC0000002"), rung)
        assert (end.ending, end.delay_seconds) == (Ending.RETRY, delay)
        assert await unordered(desk) == []
    assert (await work(desk, confirmation("SKC0000002"))).ending is Ending.DONE
    assert len(await unordered(desk)) == 1


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("completed", {"provider_clearing:mpesa": 25_000, "sales": -25_000, "suspense": 0}),
        ("reversed", {"provider_clearing:mpesa": 0, "suspense": 0}),
        ("refunded", {"provider_clearing:mpesa": 0, "suspense": 0}),
        ("failed", {"provider_clearing:mpesa": 25_000, "suspense": -25_000}),
    ],
)
async def test_an_administrator_decides_whose_it_is_and_a_later_repeat_changes_nothing(
    desk: House, outcome: str, expected: dict[str, int]
) -> None:
    admin = await desk.merchant(admin=True)
    await work(desk, confirmation("SKC0000003"))
    (row,) = await unordered(desk)
    body = {"outcome": outcome, "reason": REASON}
    answer = await admin.post(f"/payments/{row['id']}/resolve", key=str(uuid4()), json=body)
    assert (answer.status_code, answer.json()["status"]) == (200, outcome), answer.text
    assert await books(desk) == expected
    assert (await work(desk, confirmation("SKC0000003"))).ending is Ending.DONE
    assert counted(desk, "mpesa", "duplicate") == 1
    assert await books(desk) == expected
    assert len(await unordered(desk)) == 1


async def test_it_is_recorded_for_the_user_that_the_setting_names(urls: Urls) -> None:
    async with running_house(urls, **BY_HAND, unordered_payments_owner="Till@Example.com") as house:
        await house.merchant(admin=True)
        end = await work(house, confirmation("SKC0000004"))
        assert (end.ending, "no such user" in end.reason) == (Ending.DEAD, True)
        assert counted(house, "mpesa", "dead_lettered") == 1
        owner = await house.services.identity.register("till@example.com", "correct horse battery", "The Till")
        assert (await work(house, confirmation("SKC0000004"))).ending is Ending.DONE
        assert [row["user_id"] for row in await unordered(house)] == [str(owner.id)]


async def test_with_nobody_to_record_it_for_it_is_a_dead_letter_that_can_be_replayed(desk: House) -> None:
    await desk.merchant()  # no administrator
    assert (await send_mpesa(desk, CONFIRMATION, confirmation("SKC0000005"))).status_code == 200
    (letter,) = await until_dead(desk)
    assert "nobody to record" in letter.reason
    assert await unordered(desk) == []
    admin = await desk.merchant(admin=True)
    answer = await admin.post(f"/webhooks/dead-letters/{letter.id}/replay")
    assert answer.status_code == 202
    await until_counted(desk, "mpesa", "settled")
    assert len(await unordered(desk)) == 1


# A prompt that was paid is confirmed there too


async def assert_completed_once(house: House, merchant: Merchant, payment_id: str, receipt: str) -> None:
    async def look() -> Any:
        return await house.rows("SELECT count(*) FROM events"), await journals(house)

    await steady(look)
    payment = await merchant.payment(payment_id)
    assert (payment["status"], payment["paid_minor"]) == ("completed", 25_000)
    assert attempt_of(payment)["receipt"] == receipt
    assert story(payment).count("payment.completed") == 1
    assert await journals(house) == ["collected"]
    assert await books(house) == {"provider_clearing:mpesa": 25_000, "sales": -25_000}
    assert await unordered(house) == []


async def test_a_paid_prompt_told_by_callback_and_confirmation_completes_once(shop: House) -> None:
    await shop.merchant(admin=True)
    ada = await shop.merchant()
    payment = await ada.pay("mpesa")
    await shop.until(ada, payment["id"], "completed")
    await Alone(shop).until_told("c2b confirmation")
    await until_counted(shop, "mpesa", "duplicate")
    told = json.loads((await Alone(shop).told("c2b confirmation"))[0]["body"])
    assert told["BillRefNumber"] == account_of(await ada.payment(payment["id"]))
    await assert_completed_once(shop, ada, payment["id"], told["TransID"])


@pytest.mark.parametrize("first", ["callback", "confirmation"])
async def test_in_either_order_it_completes_once(desk: House, first: str) -> None:
    await desk.merchant(admin=True)
    ada = await desk.merchant()
    payment = await waiting(desk, ada, "mpesa")
    attempt = attempt_of(payment)
    await desk.act("mpesa", attempt["provider_references"][0], "pay")
    callback = stk_callback(*attempt["provider_references"], receipt="SKC0000011")
    told = confirmation("SKC0000011", 250, account_of(payment).upper())
    if first == "callback":
        assert (await work(desk, callback, attempt_id=attempt["id"])).ending is Ending.DONE
        assert (await work(desk, told, rung=0)).ending is Ending.DONE
    else:
        assert (await work(desk, told, rung=0)).ending is Ending.RETRY
        assert (await work(desk, told)).ending is Ending.DONE
        assert (await work(desk, callback, attempt_id=attempt["id"])).ending is Ending.DONE
    assert [counted(desk, "mpesa", word) for word in ("settled", "duplicate")] == [1, 1]
    await assert_completed_once(desk, ada, payment["id"], "SKC0000011")


async def test_both_at_once_complete_it_once(desk: House) -> None:
    await desk.merchant(admin=True)
    ada = await desk.merchant()
    payment = await waiting(desk, ada, "mpesa")
    attempt = attempt_of(payment)
    await desk.act("mpesa", attempt["provider_references"][0], "pay")
    callback = encoded(stk_callback(*attempt["provider_references"], receipt="SKC0000012"))
    told = encoded(confirmation("SKC0000012", 250, account_of(payment)))
    answers = await asyncio.gather(
        *(send(desk, f"lipa/{callback_token(attempt['id'])}", callback) for _ in range(2)),
        *(send(desk, f"lipa/{CONFIRMATION}", told) for _ in range(3)),
        *(work(desk, json.loads(told)) for _ in range(3)),
    )
    assert all(answer.status_code == 200 for answer in answers if isinstance(answer, httpx.Response))
    await eventually(lambda: _idle(desk), what="an empty queue")
    await assert_completed_once(desk, ada, payment["id"], "SKC0000012")


async def _idle(house: House) -> bool:
    rows = await house.rows("SELECT count(*) AS many FROM queue_messages")
    return rows[0]["many"] == 0 and await house.services.dead_letters.count(WEBHOOKS) == 0


async def completed_by_query(desk: House, ada: Merchant) -> dict[str, Any]:
    """A prompt that was paid and whose callback never came: nobody has told its receipt."""
    payment = await waiting(desk, ada, "mpesa")
    await desk.act("mpesa", attempt_of(payment)["provider_references"][0], "pay")
    await ada.post(f"/payments/{payment['id']}/verify", key=str(uuid4()))
    return payment


async def test_a_payment_completed_by_query_learns_its_receipt_from_the_confirmation(desk: House) -> None:
    await desk.merchant(admin=True)
    ada = await desk.merchant()
    payment = await completed_by_query(desk, ada)
    assert attempt_of(await ada.payment(payment["id"]))["receipt"] is None
    assert (await work(desk, confirmation("SKC0000013", 250, account_of(payment)))).ending is Ending.DONE
    await assert_completed_once(desk, ada, payment["id"], "SKC0000013")


async def test_money_for_an_order_that_m_pesa_does_not_confirm_waits_and_ends_with_that_order(desk: House) -> None:
    """Not beside it: a late answer about the prompt would post the same money again."""
    await desk.merchant(admin=True)
    ada = await desk.merchant()
    payment = await waiting(desk, ada, "mpesa")
    told = confirmation("SKC0000014", 250, account_of(payment))
    for rung in (PAST_THE_SHORT_RUNGS, LAST - 1):
        end = await work(desk, told, rung)
        assert (end.ending, end.reason) == (Ending.RETRY, "the provider does not confirm the order yet: processing")
        assert end.delay_seconds == desk.settings.ladder_seconds[rung - PAST_THE_SHORT_RUNGS]
    assert await books(desk) == {}
    ends = await asyncio.gather(*(work(desk, told, LAST) for _ in range(4)))
    assert {end.ending for end in ends} == {Ending.DONE}
    held = await ada.payment(payment["id"])
    assert (held["status"], held["timeline"][-1]["data"]["reason"]) == ("under_review", "unconfirmed_payment")
    assert attempt_of(held)["receipt"] == "SKC0000014"
    assert await unordered(desk) == []
    attempt = attempt_of(payment)
    await desk.act("mpesa", attempt["provider_references"][0], "pay")
    await work(desk, stk_callback(*attempt["provider_references"], receipt="SKC0000014"), attempt_id=attempt["id"])
    await ada.post(f"/payments/{payment['id']}/verify", key=str(uuid4()))
    assert await books(desk) == {"provider_clearing:mpesa": 25_000, "suspense": -25_000}
    admin = await desk.merchant(admin=True)
    body = {"outcome": "completed", "reason": REASON}
    answer = await admin.post(f"/payments/{payment['id']}/resolve", key=str(uuid4()), json=body)
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert await books(desk) == {"provider_clearing:mpesa": 25_000, "sales": -25_000, "suspense": 0}


async def test_a_second_payment_for_a_paid_order_is_recorded_beside_it_for_the_same_owner(desk: House) -> None:
    await desk.merchant(admin=True)
    ada = await desk.merchant()
    payment = await waiting(desk, ada, "mpesa")
    attempt = attempt_of(payment)
    await desk.act("mpesa", attempt["provider_references"][0], "pay")
    await work(desk, stk_callback(*attempt["provider_references"], receipt="SKC0000015"), attempt_id=attempt["id"])
    assert (await work(desk, confirmation("SKC0000016", 250, account_of(payment)))).ending is Ending.DONE
    (row,) = await unordered(desk)
    assert (row["receipt"], row["user_id"], row["status"]) == ("SKC0000016", ada.id, "under_review")
    assert (await ada.payment(payment["id"]))["status"] == "completed"
    assert await books(desk) == {"provider_clearing:mpesa": 50_000, "sales": -25_000, "suspense": -25_000}


async def test_another_amount_for_an_order_that_was_paid_is_other_money(desk: House) -> None:
    """Of an order that a query completed no receipt is known, but its amount is."""
    await desk.merchant(admin=True)
    ada = await desk.merchant()
    payment = await completed_by_query(desk, ada)
    assert (await work(desk, confirmation("SKC0000018", 100, account_of(payment)))).ending is Ending.DONE
    assert (await work(desk, confirmation("SKC0000017", 250, account_of(payment)))).ending is Ending.DONE
    assert attempt_of(await ada.payment(payment["id"]))["receipt"] == "SKC0000017"
    assert [(row["receipt"], row["amount_minor"]) for row in await unordered(desk)] == [("SKC0000018", 10_000)]
    assert await books(desk) == {"provider_clearing:mpesa": 35_000, "sales": -25_000, "suspense": -10_000}


async def test_an_account_is_found_by_an_index(desk: House) -> None:
    async with desk.services.database.transaction() as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        await connection.execute(
            "PREPARE named AS SELECT id FROM attempts"
            " WHERE right(reference, 12) = $1 AND provider = $2 AND operation = 'collect'"
        )
        plan = await connection.fetch("EXPLAIN EXECUTE named ('abcd2345wxyz', 'mpesa')")
        await connection.execute("DEALLOCATE named")
    assert any("ix_attempts_account_reference" in row["QUERY PLAN"] for row in plan)


# What is forged does nothing


async def test_a_confirmation_on_any_other_url_of_ours_does_nothing(desk: House) -> None:
    await desk.merchant(admin=True)
    ada = await desk.merchant()
    payment = await waiting(desk, ada, "mpesa")
    told = confirmation("SKC0000021", 250, account_of(payment))
    with capture_logs() as logs:
        for attempt_id in (attempt_of(payment)["id"], validation_id("mpesa"), uuid4()):
            end = await work(desk, told, LAST, attempt_id=attempt_id)
            assert end.ending is Ending.DONE
    assert [entry["reason"] for entry in logs if entry["event"] == "webhook.not_believed"] == [
        "not on the confirmation URL"
    ] * 3
    assert counted(desk, "mpesa", "ignored") == 3
    assert (await desk.rows("SELECT 1 FROM webhook_events"), await unordered(desk)) == ([], [])
    assert (await ada.payment(payment["id"]))["version"] == payment["version"]
    assert await books(desk) == {}
    # And it has not made the genuine one a duplicate.
    await desk.act("mpesa", attempt_of(payment)["provider_references"][0], "pay")
    assert (await work(desk, told)).ending is Ending.DONE
    await assert_completed_once(desk, ada, payment["id"], "SKC0000021")


async def test_a_token_of_nobody_is_refused_at_the_door(desk: House) -> None:
    own = confirmation_id("mpesa").hex
    for token in (own + "0" * 32, own, CONFIRMATION.upper(), ""):
        answer = await send_mpesa(desk, token, confirmation("SKC0000022"))
        assert answer.status_code in (401, 404), token
    for body in (confirmation("SKC0000022"), asked()):
        assert (await send_mpesa(desk, callback_token(str(confirmation_id("other"))), body)).status_code == 200
    await until_counted(desk, "mpesa", "ignored")
    assert await books(desk) == {}
    assert await unordered(desk) == []


async def test_what_is_asked_on_a_url_for_other_things_is_not_answered_there(desk: House) -> None:
    """A validation that was queued is malformed: nobody takes it for money."""
    await desk.merchant(admin=True)
    answer = await send_mpesa(desk, CONFIRMATION, asked())
    assert answer.json() == {"ResultCode": 0, "ResultDesc": "Accepted"}
    (letter,) = await until_dead(desk)
    assert letter.reason.startswith("malformed")
    assert await books(desk) == {}


async def test_a_prompts_callback_on_the_confirmation_url_settles_nothing(desk: House) -> None:
    ada = await desk.merchant()
    payment = await waiting(desk, ada, "mpesa")
    attempt = attempt_of(payment)
    await desk.act("mpesa", attempt["provider_references"][0], "pay")
    end = await work(desk, stk_callback(*attempt["provider_references"]))
    assert end.ending is Ending.RETRY
    assert (await ada.payment(payment["id"]))["version"] == payment["version"]


# Whether it may be taken


async def test_what_names_no_order_is_accepted_or_refused_as_set(urls: Urls, desk: House) -> None:
    answer = await send_mpesa(desk, VALIDATION, asked())
    assert (answer.status_code, answer.json()) == (200, ACCEPTED)
    assert counted(desk, "mpesa", "validation_accepted") == 1
    async with running_house(urls, **BY_HAND, unordered_payments_accepted=False) as strict:
        assert (await send_mpesa(strict, VALIDATION, asked())).json() == REFUSED
        payment = await waiting(strict, await strict.merchant(), "mpesa")
        assert (await send_mpesa(strict, VALIDATION, asked(250, account_of(payment)))).json() == ACCEPTED
        assert [counted(strict, "mpesa", f"validation_{word}") for word in ("refused", "accepted")] == [1, 1]
        # Answered at once: nothing was queued.
        assert await kept_bodies(strict) == 0
        assert await strict.rows("SELECT 1 FROM queue_messages") == []


async def test_an_order_is_taken_with_its_own_amount_while_it_is_open(desk: House) -> None:
    ada = await desk.merchant()
    payment = await waiting(desk, ada, "mpesa")
    account = account_of(payment)

    async def decided(shillings: int, typed: str) -> Any:
        return (await send_mpesa(desk, VALIDATION, asked(shillings, typed))).json()

    assert await decided(250, account) == ACCEPTED
    assert await decided(250, f" {account.upper()[:6]}-{account.upper()[6:]}") == ACCEPTED
    assert await decided(249, account) == REFUSED
    assert await decided(251, account) == REFUSED
    assert await decided(251, account[1:]) == ACCEPTED  # names no order
    attempt = attempt_of(payment)
    await desk.act("mpesa", attempt["provider_references"][0], "pay")
    await work(desk, stk_callback(*attempt["provider_references"]), attempt_id=attempt["id"])
    assert (await ada.payment(payment["id"]))["status"] == "completed"
    assert await decided(250, account) == REFUSED
    assert [counted(desk, "mpesa", f"validation_{word}") for word in ("accepted", "refused")] == [3, 3]


async def test_an_order_that_was_given_up_is_not_taken(desk: House) -> None:
    ada = await desk.merchant()
    payment = await waiting(desk, ada, "mpesa")
    assert (await ada.post(f"/payments/{payment['id']}/cancel", key=str(uuid4()))).status_code == 200
    assert (await send_mpesa(desk, VALIDATION, asked(250, account_of(payment)))).json() == REFUSED


async def test_a_refused_payment_is_never_made_and_an_accepted_one_is(shop: House) -> None:
    admin, ada = await shop.merchant(admin=True), await shop.merchant()
    await shop.simulate(mpesa_external_validation=True, automatic_customer=False)
    payment = await waiting(shop, ada, "mpesa")
    alone = Alone(shop)
    await alone.pay(100, account_of(payment))
    await alone.until_told("c2b validation")
    await until_counted(shop, "mpesa", "validation_refused")
    await alone.pay(100, "invoice 18")
    await alone.until_told("c2b confirmation")
    await until_counted(shop, "mpesa", "settled")
    assert [row["metadata"] for row in await unordered(shop)] == [{"account_reference": "invoice 18"}]
    assert [row["user_id"] for row in await unordered(shop)] == [admin.id]
    assert len(await alone.told("c2b confirmation")) == 1
    await assert_the_books_balance(shop)


async def test_without_postgresql_it_is_accepted(urls: Urls) -> None:
    async with (
        Relay.to(urls.postgres) as relay,
        running_house(
            replace(urls, postgres=relay.url), **{**BY_HAND, "worker": False}, unordered_payments_accepted=False
        ) as house,
    ):
        looks_like_ours = asked(250, "abcd2345wxyz")
        assert (await send_mpesa(house, VALIDATION, looks_like_ours)).json() == REFUSED
        await relay.cut()
        try:
            answer = await send_mpesa(house, VALIDATION, looks_like_ours)
            assert (answer.status_code, answer.json()) == (200, ACCEPTED)
            assert counted(house, "mpesa", "validation_undecided") == 1
        finally:
            await relay.mend()


class Stuck:
    """A database that neither answers nor lets go."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def attempt_by_account(self, provider: str, account: str) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                continue


async def test_a_database_that_hangs_keeps_nobody_waiting(desk: House) -> None:
    stuck = Stuck()
    validations = Validations(stuck, desk.settings, deadline_seconds=0.05)  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        decision = await validations.decide("mpesa", ValidationRequest(Money(25_000, "KES"), "invoice 17", "SKV1"))
    assert (decision.accept, decision.outcome) == (True, "validation_undecided")
    stuck.released.set()


async def test_what_cannot_be_read_as_a_question_is_queued_as_usual(desk: House) -> None:
    """A confirmation there is no proof of money: the URL for it is another one."""
    await desk.merchant(admin=True)
    answer = await send_mpesa(desk, VALIDATION, {**asked(), "TransAmount": "much"})
    assert (answer.status_code, answer.json()) == (200, {"ResultCode": 0, "ResultDesc": "Accepted"})
    assert (await until_dead(desk))[0].reason.startswith("malformed")
    assert (await send_mpesa(desk, VALIDATION, confirmation("SKC0000031"))).status_code == 200
    await until_counted(desk, "mpesa", "ignored")
    assert await unordered(desk) == []


async def test_an_enforced_source_holds_for_questions_too(urls: Urls) -> None:
    async with running_house(urls, **BY_HAND, enforce_webhook_sources=True) as house:
        assert (await send_mpesa(house, VALIDATION, asked())).status_code == 401
        assert counted(house, "mpesa", "validation_accepted") == 0
