"""What the worker makes of signed webhooks: each one counts once, only the right money completes, and none is lost."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest

from payflow.bootstrap import Services, build_services
from payflow.core.clock import utc_now
from payflow.events.publisher import transaction_channel
from payflow.infra.queue.port import WEBHOOKS, Message
from payflow.webhooks.processing import Disposition, Ending
from payflow.webhooks.repository import BODY_RETENTION
from tests.house import House, Merchant, Urls, eventually, running_house
from tests.webhooks.desk import (
    attempt_of,
    charge_success,
    counted,
    encoded,
    intent_succeeded,
    kept_bodies,
    publish,
    send_paystack,
    send_stripe,
    story,
    until_counted,
    until_dead,
    waiting,
)

BY_HAND = {"simulator": {"automatic_customer": False}, "timer_interval_seconds": 3_600.0}
COMPLETED = ["payment.initiated", "payment.requires_action", "payment.completed"]


@pytest.fixture(scope="module")
async def desk(urls: Urls) -> AsyncIterator[House]:
    """A house on RabbitMQ where customers do nothing by themselves and no timer asks."""
    async with running_house(urls, **BY_HAND) as house:
        yield house


@pytest.fixture(scope="module")
async def spool_desk(urls: Urls) -> AsyncIterator[House]:
    """The same with the spool as its only queue, as in embedded mode."""
    async with running_house(urls, amqp_url="", **BY_HAND) as house:
        yield house


@pytest.fixture(scope="module", params=["rabbitmq", "spool"])
async def either(request: pytest.FixtureRequest, desk: House, spool_desk: House) -> House:
    return desk if request.param == "rabbitmq" else spool_desk


@pytest.fixture(scope="module")
async def second_node(spool_desk: House) -> AsyncIterator[Services]:
    """Another worker's services on the same database."""
    services = build_services(spool_desk.settings)
    yield services
    await services.close()


def message(provider: str, body: Any, **headers: str) -> Message:
    raw = body if isinstance(body, bytes) else encoded(body)
    return Message(str(uuid4()), raw, {"provider": provider, "received_at": utc_now().isoformat(), **headers})


async def posted(house: House, payment: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Kind of journal, account and amount of everything posted for this payment."""
    rows = await house.rows(
        """
        SELECT j.kind, a.code, e.amount_minor FROM ledger_journals j JOIN ledger_entries e ON e.journal_id = j.id
        JOIN ledger_accounts a ON a.id = e.account_id WHERE j.transaction_id = $1::text::uuid ORDER BY 1, 2
        """,
        payment["id"],
    )
    return [(row["kind"], row["code"], row["amount_minor"]) for row in rows]


async def paid_of(house: House, merchant: Merchant, provider: str = "paystack") -> tuple[dict[str, Any], Any]:
    """A waiting payment and the genuine event that it was paid."""
    payment = await waiting(house, merchant, provider)
    reference = attempt_of(payment)["reference"]
    number = uuid4().int % 10**12
    if provider == "paystack":
        return payment, charge_success(reference, number=number)
    return payment, intent_succeeded(reference, event_id=f"evt_{number}", intent_id=f"pi_{number}")


# Duplicates


async def test_the_same_event_three_times_moves_and_posts_once(either: House) -> None:
    ada = await either.merchant()
    payment, event = await paid_of(either, ada)
    before = counted(either, "paystack", "settled"), counted(either, "paystack", "duplicate")
    for _ in range(3):
        assert (await send_paystack(either, event)).status_code == 200
    await until_counted(either, "paystack", "duplicate", before[1] + 2)
    assert counted(either, "paystack", "settled") == before[0] + 1
    paid = await ada.payment(payment["id"])
    assert story(paid) == COMPLETED
    assert paid["paid_minor"] == 500_000
    assert await posted(either, payment) == [
        ("collected", "provider_clearing:paystack", 500_000),
        ("collected", "sales", -500_000),
    ]


async def test_the_same_event_thrice_in_one_batch_moves_and_posts_once(spool_desk: House) -> None:
    ada = await spool_desk.merchant()
    payment, event = await paid_of(spool_desk, ada, "stripe")
    before = counted(spool_desk, "stripe", "duplicate")
    ends = await spool_desk.services.webhooks.process([message("stripe", event) for _ in range(3)])
    assert [end.ending for end in ends] == [Ending.DONE] * 3
    assert counted(spool_desk, "stripe", "duplicate") == before + 2
    assert story(await ada.payment(payment["id"])) == COMPLETED
    assert len(await posted(spool_desk, payment)) == 2


async def test_the_same_events_at_two_workers_at_once_move_and_post_once(
    spool_desk: House, second_node: Services
) -> None:
    ada = await spool_desk.merchant()
    paid = [await paid_of(spool_desk, ada) for _ in range(8)]
    there = [message("paystack", event) for _, event in paid]
    back = [message("paystack", event) for _, event in reversed(paid)]
    first, second = await asyncio.gather(
        spool_desk.services.webhooks.process(there), second_node.webhooks.process(back)
    )
    assert {end.ending for end in (*first, *second)} == {Ending.DONE}
    for payment, _ in paid:
        assert story(await ada.payment(payment["id"])) == COMPLETED
        assert len(await posted(spool_desk, payment)) == 2


async def test_a_repeat_tells_the_last_events_again(spool_desk: House) -> None:
    """The worker may have died between commit and publish, so the repeat is what brings the news."""
    ada = await spool_desk.merchant()
    payment, event = await paid_of(spool_desk, ada)
    services = spool_desk.services
    await services.webhooks.process([message("paystack", event)])
    channel = transaction_channel(spool_desk.settings.redis_prefix, payment["id"])
    async with services.redis.pubsub() as listening:
        await listening.subscribe(channel)
        await services.webhooks.process([message("paystack", event)])
        heard: list[Any] = []
        async with asyncio.timeout(30):
            while len(heard) < 2:
                told = await listening.get_message(ignore_subscribe_messages=True, timeout=1)
                heard += [orjson.loads(told["data"])] if told else []
    timeline = (await ada.payment(payment["id"]))["timeline"]
    assert [(frame["event_id"], frame["sequence"], frame["type"]) for frame in heard] == [
        (entry["id"], entry["sequence"], entry["type"]) for entry in timeline[1:]
    ]


async def test_what_is_worked_on_twice_leaves_one_row_and_one_body(spool_desk: House) -> None:
    ada = await spool_desk.merchant()
    _, event = await paid_of(spool_desk, ada)
    same, before = message("paystack", event), await kept_bodies(spool_desk)
    for _ in range(2):
        await spool_desk.services.webhooks.process([same])
    assert await kept_bodies(spool_desk) == before + 1
    (body,) = await spool_desk.rows("SELECT body, provider FROM webhook_bodies WHERE message_id::text = $1", same.id)
    assert (body["body"], body["provider"]) == (same.body, "paystack")
    (row,) = await spool_desk.rows(
        "SELECT dedupe_key, outcome, type FROM webhook_events WHERE message_id::text = $1", same.id
    )
    assert row == {
        "dedupe_key": f"charge.success:{event['data']['id']}",
        "outcome": "settled",
        "type": "charge.success",
    }


# Order, age, repetition


def stripe_event(kind: str, reference: str, intent_id: str, **fields: Any) -> Any:
    event = intent_succeeded(reference, event_id=f"evt_{uuid4().hex}", intent_id=intent_id)
    event["type"] = kind
    event["data"]["object"] |= fields
    return event


async def test_older_events_after_the_final_one_change_nothing(spool_desk: House) -> None:
    ada = await spool_desk.merchant()
    payment, event = await paid_of(spool_desk, ada, "stripe")
    reference, intent_id = attempt_of(payment)["reference"], event["data"]["object"]["id"]
    await spool_desk.services.webhooks.process([message("stripe", event)])
    paid = await ada.payment(payment["id"])
    old = [
        stripe_event("payment_intent.processing", reference, intent_id, status="processing", amount_received=0),
        stripe_event(
            "payment_intent.payment_failed",
            reference,
            intent_id,
            status="requires_payment_method",
            amount_received=0,
            last_payment_error={"code": "card_declined"},
        ),
        stripe_event("payment_intent.canceled", reference, intent_id, status="canceled", amount_received=0),
        stripe_event("payment_intent.requires_action", reference, intent_id, status="requires_action"),
        stripe_event("payment_intent.succeeded", reference, intent_id),
    ]
    before = counted(spool_desk, "stripe", "unchanged")
    for late in old:
        (end,) = await spool_desk.services.webhooks.process([message("stripe", late)])
        assert end.ending is Ending.DONE
    assert counted(spool_desk, "stripe", "unchanged") == before + len(old)
    after = await ada.payment(payment["id"])
    assert {**after, "attempts": None, "updated_at": None} == {**paid, "attempts": None, "updated_at": None}
    assert attempt_of(after)["status"] == "succeeded"
    assert len(await posted(spool_desk, payment)) == 2


async def test_a_success_after_the_merchant_gave_up_is_not_hidden(spool_desk: House) -> None:
    ada = await spool_desk.merchant()
    payment, event = await paid_of(spool_desk, ada)
    assert (await ada.post(f"/payments/{payment['id']}/cancel")).status_code == 200
    await spool_desk.services.webhooks.process([message("paystack", event)])
    paid = await ada.payment(payment["id"])
    assert story(paid) == [*COMPLETED[:2], "payment.cancelled", "payment.completed"]
    assert paid["timeline"][-1]["data"]["late"] is True


async def test_a_replayed_webhook_of_another_payment_leaves_this_one_alone(spool_desk: House) -> None:
    ada = await spool_desk.merchant()
    _, event = await paid_of(spool_desk, ada)
    payment = await waiting(spool_desk, ada, "paystack")
    await spool_desk.services.webhooks.process([message("paystack", event), message("paystack", event)])
    assert (await ada.payment(payment["id"])) == payment
    assert await posted(spool_desk, payment) == []


# The wrong money


def other_amount(event: Any) -> None:
    event["data"]["amount"] = event["data"]["requested_amount"] = 499_999


def less_paid(event: Any) -> None:
    event["data"]["amount"] = 499_999


def more_without_a_fee(event: Any) -> None:
    event["data"]["amount"] = 510_000


def more_than_the_fee(event: Any) -> None:
    event["data"] |= {"amount": 510_000, "fees": 9_999}


def other_currency(event: Any) -> None:
    event["data"]["currency"] = "GHS"


@pytest.mark.parametrize(
    ("change", "reason", "received"),
    [
        (other_amount, "amount_mismatch", (499_999, "NGN")),
        (less_paid, "amount_mismatch", (499_999, "NGN")),
        (more_without_a_fee, "amount_mismatch", (510_000, "NGN")),
        (more_than_the_fee, "amount_mismatch", (510_000, "NGN")),
        (other_currency, "currency_mismatch", (500_000, "GHS")),
    ],
)
async def test_other_money_than_was_asked_for_completes_nothing(
    spool_desk: House, change: Any, reason: str, received: tuple[int, str]
) -> None:
    ada = await spool_desk.merchant()
    payment, event = await paid_of(spool_desk, ada)
    change(event)
    await spool_desk.services.webhooks.process([message("paystack", event)])
    held = await ada.payment(payment["id"])
    assert (held["status"], held["paid_minor"]) == ("under_review", 0)
    assert story(held) == [*COMPLETED[:2], "payment.under_review"]
    data = held["timeline"][-1]["data"]
    assert (data["reason"], data["received_minor"], data["received_currency"]) == (reason, *received)
    assert await posted(spool_desk, payment) == [
        ("suspended", "provider_clearing:paystack", received[0]),
        ("suspended", "suspense", -received[0]),
    ]


async def test_money_for_another_reference_completes_nothing(spool_desk: House) -> None:
    """The session's own reference and its metadata disagree: whose is it?"""
    ada = await spool_desk.merchant()
    payment = await waiting(spool_desk, ada, "stripe")
    reference = attempt_of(payment)["reference"]
    session_id = attempt_of(payment)["provider_references"][0]
    event = {
        "id": f"evt_{uuid4().hex}",
        "type": "checkout.session.completed",
        "data": {
            "object": {
                "id": session_id,
                "object": "checkout.session",
                "status": "complete",
                "payment_status": "paid",
                "amount_total": 1_990,
                "currency": "usd",
                "client_reference_id": "somebody-elses-order",
                "metadata": {"reference": reference},
            }
        },
    }
    await spool_desk.services.webhooks.process([message("stripe", event)])
    held = await ada.payment(payment["id"])
    assert held["status"] == "under_review"
    assert held["timeline"][-1]["data"]["reason"] == "reference_mismatch"
    assert [line[0] for line in await posted(spool_desk, payment)] == ["suspended", "suspended"]


async def test_another_providers_event_cannot_touch_a_payment(spool_desk: House) -> None:
    ada = await spool_desk.merchant()
    payment = await waiting(spool_desk, ada, "paystack")
    event = intent_succeeded(attempt_of(payment)["reference"], amount=500_000, currency="ngn", event_id="evt_foreign")
    (end,) = await spool_desk.services.webhooks.process([message("stripe", event)])
    assert (end.ending, end.reason) == (Ending.RETRY, "no such attempt")
    assert await ada.payment(payment["id"]) == payment
    assert await posted(spool_desk, payment) == []


# Whose it is


async def test_an_event_of_nobody_we_know_waits_on_the_rungs_and_is_then_ignored(desk: House) -> None:
    """It might have overtaken our commit; after that it is plainly somebody else's, and no letter for a person."""
    ignored, retried = counted(desk, "paystack", "ignored"), counted(desk, "paystack", "retried")
    dead = await desk.services.dead_letters.count(WEBHOOKS)
    assert (await send_paystack(desk, charge_success("T1234567890", number=1))).status_code == 200
    await until_counted(desk, "paystack", "ignored", ignored + 1)
    assert counted(desk, "paystack", "retried") == retried + len(desk.settings.overtaken_delays_seconds)
    assert await desk.services.dead_letters.count(WEBHOOKS) == dead
    assert await desk.rows("SELECT 1 FROM webhook_events WHERE dedupe_key = 'charge.success:1'") == []


async def test_an_event_that_names_one_of_our_references_climbs_to_the_dead_letters(urls: Urls) -> None:
    """Ours by its shape, but there is no such attempt: a person has to know."""
    async with running_house(urls, **BY_HAND, ladder_seconds=(0.2, 0.2)) as house:
        event = charge_success("att" + "0" * 26)
        assert (await send_paystack(house, event)).status_code == 200
        (letter,) = await until_dead(house)
        assert letter.reason == "given up after the last rung: no such attempt"
        assert letter.message.body == encoded(event)
        assert letter.message.attempt == 4
        assert counted(house, "paystack", "retried") == 4
        assert counted(house, "paystack", "dead_lettered") == 1
        assert counted(house, "paystack", "ignored") == 0
        assert await house.rows("SELECT 1 FROM webhook_events") == []


async def test_an_event_that_overtook_our_commit_finds_its_payment_on_a_rung(spool_desk: House) -> None:
    ada = await spool_desk.merchant()
    payment, event = await paid_of(spool_desk, ada)
    reference = event["data"]["reference"]
    hidden = "att" + "z" * 26
    async with spool_desk.services.database.raw() as connection:
        await connection.execute("UPDATE attempts SET reference = $1 WHERE reference = $2", hidden, reference)
    retried = counted(spool_desk, "paystack", "retried")
    assert (await send_paystack(spool_desk, event)).status_code == 200
    await until_counted(spool_desk, "paystack", "retried", retried + 1)
    async with spool_desk.services.database.raw() as connection:
        await connection.execute("UPDATE attempts SET reference = $2 WHERE reference = $1", hidden, reference)
    await spool_desk.until(ada, payment["id"], "completed")


async def test_news_that_moves_nothing_is_ignored_and_remembered(spool_desk: House) -> None:
    ada = await spool_desk.merchant()
    payment = await waiting(spool_desk, ada, "stripe")
    news = stripe_event("charge.updated", attempt_of(payment)["reference"], "ch_1", object="charge")
    ignored, duplicate = counted(spool_desk, "stripe", "ignored"), counted(spool_desk, "stripe", "duplicate")
    for _ in range(2):
        (end,) = await spool_desk.services.webhooks.process([message("stripe", news)])
        assert end.ending is Ending.DONE
    assert counted(spool_desk, "stripe", "ignored") == ignored + 1
    assert counted(spool_desk, "stripe", "duplicate") == duplicate + 1
    (row,) = await spool_desk.rows(
        "SELECT outcome, transaction_id::text AS id FROM webhook_events WHERE dedupe_key = $1", news["id"]
    )
    assert row == {"outcome": "ignored", "id": payment["id"]}
    assert await ada.payment(payment["id"]) == payment


# What cannot be read


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'"text"',
        b"{}",
        b'{"event":"charge.success"}',
        b'{"event":"charge.success","data":{}}',
        encoded(
            {
                "event": "charge.success",
                "data": {"reference": "x", "status": "success", "amount": 1.5, "currency": "NGN"},
            }
        ),
        encoded(
            {
                "event": "charge.success",
                "data": {"reference": "x", "status": "success", "amount": 10**30, "currency": "NGN"},
            }
        ),
        b"\xff\xfe",
        b"[" * 2_000,
    ],
)
async def test_a_proven_body_that_cannot_be_read_goes_straight_to_the_dead_letters(
    spool_desk: House, body: bytes
) -> None:
    before = counted(spool_desk, "paystack", "malformed")
    (end,) = await spool_desk.services.webhooks.process([message("paystack", body)])
    assert end.ending is Ending.DEAD
    assert end.reason.startswith("malformed: ")
    assert counted(spool_desk, "paystack", "malformed") == before + 1


async def test_a_malformed_webhook_waits_for_a_person_without_a_retry(either: House) -> None:
    retried = counted(either, "stripe", "retried")
    dead = await either.services.dead_letters.count(WEBHOOKS)
    assert (await send_stripe(either, {"id": "evt_1", "type": "payment_intent.succeeded"})).status_code == 200
    letters = await until_dead(either, dead + 1)
    assert letters[0].reason.startswith("malformed: no readable Stripe event")
    assert letters[0].message.attempt == 0
    assert counted(either, "stripe", "retried") == retried


async def test_a_message_that_intake_did_not_write_spoils_no_other(spool_desk: House) -> None:
    ada = await spool_desk.merchant()
    payment, event = await paid_of(spool_desk, ada)
    strange = [
        Message(str(uuid4()), b"{}", {}),
        Message(str(uuid4()), b"{}", {"provider": "paystack"}),
        Message(str(uuid4()), b"{}", {"provider": "paystack", "received_at": "yesterday"}),
        Message("no-uuid", b"{}", {"provider": "paystack", "received_at": utc_now().isoformat()}),
        message("paystack", b"{}", attempt_id="no-uuid"),
        message("atlantis", b"{}"),
    ]
    ends = await spool_desk.services.webhooks.process([*strange, message("paystack", event)])
    assert [end.ending for end in ends] == [Ending.DEAD] * 6 + [Ending.DONE]
    assert ends[5].reason == "provider atlantis is not installed"
    assert (await ada.payment(payment["id"]))["status"] == "completed"


# What fails for a while

REFUSE_ONE = """
    CREATE FUNCTION refuse_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.dedupe_key = 'charge.success:{number}' AND (SELECT count(*) FROM allowed) = 0 THEN
            RAISE EXCEPTION 'the disk of one row is on fire' USING DETAIL = 'the whole row: ada@example.com';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TABLE allowed (yes int);
    CREATE TRIGGER refuse_one BEFORE INSERT ON webhook_events FOR EACH ROW EXECUTE FUNCTION refuse_one();
"""


async def test_one_bad_message_in_a_batch_of_fifty_spoils_no_other_and_comes_again(urls: Urls) -> None:
    async with running_house(urls, **BY_HAND, amqp_url="") as house:
        ada = await house.merchant()
        paid = await asyncio.gather(*(paid_of(house, ada) for _ in range(50)))
        bad_payment, bad_event = paid[23]
        async with house.services.database.raw() as connection:
            await connection.execute(REFUSE_ONE.format(number=bad_event["data"]["id"]))
        batch = [message("paystack", event) for _, event in paid]
        ends = await house.services.webhooks.process(batch)
        assert [end.ending for end in ends] == [Ending.RETRY if number == 23 else Ending.DONE for number in range(50)]
        assert ends[23].reason == "RaiseError: the disk of one row is on fire"
        assert ends[23].delay_seconds == house.settings.ladder_seconds[0]
        statuses = await house.rows("SELECT status, count(*) AS many FROM transactions GROUP BY 1 ORDER BY 1")
        assert [tuple(row.values()) for row in statuses] == [("completed", 49), ("requires_action", 1)]
        assert await posted(house, bad_payment) == []
        async with house.services.database.raw() as connection:
            await connection.execute("INSERT INTO allowed VALUES (1)")
        again = await house.services.webhooks.process([batch[23], batch[0]])
        assert [end.ending for end in again] == [Ending.DONE, Ending.DONE]
        assert (await ada.payment(bad_payment["id"]))["status"] == "completed"
        assert len(await house.rows("SELECT 1 FROM ledger_journals")) == 50


async def test_a_failure_climbs_the_whole_ladder_and_ends_as_a_dead_letter_that_can_be_replayed(urls: Urls) -> None:
    async with running_house(urls, **BY_HAND, ladder_seconds=(0.2, 0.3, 0.4)) as house:
        ada = await house.merchant()
        payment, event = await paid_of(house, ada)
        async with house.services.database.raw() as connection:
            await connection.execute(REFUSE_ONE.format(number=event["data"]["id"]))
        assert (await send_paystack(house, event)).status_code == 200
        (letter,) = await until_dead(house)
        assert letter.reason == "given up after the last rung: RaiseError: the disk of one row is on fire"
        assert letter.message.attempt == 3
        assert counted(house, "paystack", "retried") == 3
        assert counted(house, "paystack", "dead_lettered") == 1
        assert (await ada.payment(payment["id"]))["status"] == "requires_action"
        async with house.services.database.raw() as connection:
            await connection.execute("INSERT INTO allowed VALUES (1)")
        admin = await house.merchant(admin=True)
        answer = await admin.post(f"/webhooks/dead-letters/{letter.id}/replay")
        assert answer.status_code == 202
        assert answer.json() == {"id": str(letter.id), "message_id": letter.message.id}
        await house.until(ada, payment["id"], "completed")
        assert len(await posted(house, payment)) == 2


@pytest.mark.parametrize(
    ("attempt", "overtaken", "expected"),
    [
        (0, False, 60),
        (4, False, 21_600),
        (5, False, None),
        (0, True, 2),
        (1, True, 10),
        (2, True, 60),
        (6, True, 21_600),
        (7, True, None),
    ],
)
async def test_the_ladder_as_designed(spool_desk: House, attempt: int, overtaken: bool, expected: float | None) -> None:
    """2 s and 10 s where it may have overtaken our commit; 1 min, 5 min, 15 min, 1 h, 6 h; then the dead letters."""
    designed = spool_desk.settings.model_copy(
        update={"overtaken_delays_seconds": (2, 10), "ladder_seconds": (60, 300, 900, 3_600, 21_600)}
    )
    services = build_services(designed)
    body = charge_success("att" + "0" * 26) if overtaken else charge_success("T1", number=77)
    raw = Message(str(uuid4()), encoded(body), {"provider": "paystack", "received_at": utc_now().isoformat()}, attempt)
    end: Disposition
    if overtaken:
        (end,) = await services.webhooks.process([raw])
    else:
        end = services.webhooks.postponed(raw, RuntimeError("the first line\nthe second"))
    await services.close()
    reason = "no such attempt" if overtaken else "RuntimeError: the first line"
    if expected is None:
        assert (end.ending, end.reason) == (Ending.DEAD, f"given up after the last rung: {reason}")
    else:
        assert (end.ending, end.delay_seconds, end.reason) == (Ending.RETRY, expected, reason)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": "transaction-update"},
        {"type": "transaction-update", "data": {"code": "000", "requestId": "202601011200att" + "0" * 26}},
    ],
)
async def test_what_anybody_could_have_sent_and_says_nothing_of_ours_asks_no_person(
    spool_desk: House, body: Any
) -> None:
    """Else anybody could fill the list that persons look at."""
    proven = {"provider": "vtpass", "received_at": utc_now().isoformat()}
    for headers, ending in ((proven, Ending.DEAD), ({**proven, "trust": "confirm"}, Ending.DONE)):
        (end,) = await spool_desk.services.webhooks.process([Message(str(uuid4()), encoded(body), headers, 99)])
        assert end.ending is ending, end
    (early,) = await spool_desk.services.webhooks.process([Message(str(uuid4()), encoded(body), headers)])
    assert early.ending is (Ending.RETRY if "data" in body else Ending.DONE)


# What is kept and counted


async def test_raw_bodies_are_forgotten_when_their_time_is_over(spool_desk: House) -> None:
    ada = await spool_desk.merchant()
    payment, event = await paid_of(spool_desk, ada)
    old = message("paystack", event)
    old = Message(old.id, old.body, {**old.headers, "received_at": (utc_now() - timedelta(days=91)).isoformat()})
    _, fresh = await paid_of(spool_desk, ada)
    await spool_desk.services.webhooks.process([old, message("paystack", fresh)])
    before = await kept_bodies(spool_desk)
    assert await spool_desk.services.webhook_rows.delete_bodies(utc_now() - BODY_RETENTION) == 1
    assert await kept_bodies(spool_desk) == before - 1
    assert await spool_desk.services.webhook_rows.delete_bodies(utc_now() - BODY_RETENTION) == 0
    rows = await spool_desk.rows("SELECT outcome FROM webhook_events WHERE message_id::text = $1", old.id)
    assert [row["outcome"] for row in rows] == ["settled"]  # what was seen is remembered, so a replay stays a duplicate
    assert (await ada.payment(payment["id"]))["status"] == "completed"


async def test_lag_and_batch_size_are_measured(desk: House) -> None:
    ada = await desk.merchant()
    metrics = desk.services.metrics

    def value(name: str, **labels: str) -> float:
        return metrics.get_sample_value(name, labels) or 0.0

    before = value("payflow_worker_lag_seconds_count"), value("payflow_worker_batch_size_sum")
    payment, event = await paid_of(desk, ada)
    await send_paystack(desk, event)
    await desk.until(ada, payment["id"], "completed")
    await eventually(lambda: value("payflow_worker_lag_seconds_count") == before[0] + 1)
    assert value("payflow_worker_batch_size_sum") == before[1] + 1
    exposed = (await desk.client().get("/metrics")).text
    assert 'webhook_events_total{outcome="settled",provider="paystack"}' in exposed


# Dead letters


async def test_dead_letters_are_for_administrators(desk: House) -> None:
    ada = await desk.merchant()
    assert (await ada.get("/webhooks/dead-letters")).status_code == 403
    assert (await ada.post(f"/webhooks/dead-letters/{uuid4()}/replay")).status_code == 403
    assert (await desk.client().get("/api/v1/webhooks/dead-letters")).status_code == 401


async def test_a_dead_letter_is_listed_with_its_reason_and_replayed_once(desk: House) -> None:
    admin = await desk.merchant(admin=True)
    before = await desk.services.dead_letters.count(WEBHOOKS)
    sent = await publish(desk, "paystack", b"not json")
    await until_dead(desk, before + 1)
    page = (await admin.get("/webhooks/dead-letters", params={"limit": 1})).json()
    (letter,) = page["data"]
    assert {name: letter[name] for name in ("provider", "message_id", "attempts", "size_bytes", "replayed_at")} == {
        "provider": "paystack",
        "message_id": sent.id,
        "attempts": 0,
        "size_bytes": 8,
        "replayed_at": None,
    }
    assert letter["reason"].startswith("malformed: ")
    first = await admin.post(f"/webhooks/dead-letters/{letter['id']}/replay")
    assert first.status_code == 202
    again = await admin.post(f"/webhooks/dead-letters/{letter['id']}/replay")
    assert (again.status_code, again.headers["content-type"]) == (409, "application/problem+json")
    assert again.json()["code"] == "already_replayed"
    unknown = await admin.post(f"/webhooks/dead-letters/{uuid4()}/replay")
    assert unknown.status_code == 404
    # It is as unreadable as before, so it lies there anew.
    await until_dead(desk, before + 1)
    replayed = (await admin.get("/webhooks/dead-letters", params={"replayed": True, "limit": 100})).json()["data"]
    (told,) = [item for item in replayed if item["id"] == letter["id"]]
    assert told["replayed_by"] == admin.id
    assert told["replayed_at"] is not None


async def test_dead_letters_are_listed_in_pages(spool_desk: House) -> None:
    admin = await spool_desk.merchant(admin=True)
    before = await spool_desk.services.dead_letters.count(WEBHOOKS)
    sent = [await publish(spool_desk, "paystack", b"not json %d" % number) for number in range(3)]
    await until_dead(spool_desk, before + 3)
    seen: list[str] = []
    cursor = None
    while True:
        params: dict[str, Any] = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await admin.get("/webhooks/dead-letters", params=params)).json()
        seen += [letter["message_id"] for letter in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == before + 3
    assert {item.id for item in sent} <= set(seen)
    assert (await admin.get("/webhooks/dead-letters", params={"cursor": "x"})).status_code == 422


async def test_many_dead_letters_are_replayed_by_what_they_have_in_common(spool_desk: House) -> None:
    admin = await spool_desk.merchant(admin=True)
    path, letters = "/webhooks/dead-letters/matching/replay", spool_desk.services.dead_letters
    sent = [message("stripe", b"not json %d" % number) for number in range(3)]
    for one in sent:
        await letters.add(WEBHOOKS, one, "put there by hand")
        await asyncio.sleep(0.002)  # ids order by the millisecond
    before = await letters.count(WEBHOOKS)
    which = {"provider": "stripe", "reason": "put there", "limit": 2}
    shown = (await admin.post(path, json={**which, "dry_run": True})).json()
    assert [letter["message_id"] for letter in shown["data"]] == [item.id for item in sent[:2]]
    assert (shown["dry_run"], shown["has_more"]) == (True, True)
    assert (await admin.get("/webhooks/dead-letters", params={"provider": "stripe"})).json()["data"][-1][
        "replayed_at"
    ] is None
    first = (await admin.post(path, json={**which, "dead_before": shown["dead_before"]})).json()
    assert first["data"] == shown["data"]
    rest = (await admin.post(path, json={**which, "dead_before": shown["dead_before"]})).json()
    assert ([letter["message_id"] for letter in rest["data"]], rest["has_more"]) == ([sent[2].id], False)
    await until_dead(spool_desk, before)  # as unreadable as before, so they lie there anew
    for wrong in (
        {},
        {"dry_run": True},
        {"provider": "Stripe"},
        {**which, "limit": 501},
        {**which, "dead_before": "soon"},
    ):
        refused = await admin.post(path, json=wrong)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), wrong
    assert (await (await spool_desk.merchant()).post(path, json=which)).status_code == 403
