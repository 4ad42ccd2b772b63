"""Results that M-Pesa sends unsigned and once, of refunds and payouts: believed by the token of the URL, about its own order."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from payflow.core.clock import utc_now
from payflow.infra.queue.port import Message
from payflow.webhooks.processing import Disposition, Ending
from tests.house import House, Merchant, Urls, eventually, running_house
from tests.payouts.till import attempt_of as reference_of
from tests.payouts.till import audit, began, fill, purse, until
from tests.payouts.till import story as payout_story
from tests.webhooks.desk import (
    attempt_of,
    books,
    callback_token,
    counted,
    encoded,
    send_mpesa,
    stk_callback,
    story,
    waiting,
)

BY_HAND: dict[str, Any] = {
    "simulator": {"automatic_customer": False, "deliver_webhooks": False},
    "timer_interval_seconds": 3_600.0,
    "amqp_url": "",
}
COLLECTED = {"provider_clearing:mpesa": 25_000, "sales": -25_000}
GIVEN_BACK = {"provider_clearing:mpesa": 0, "sales": 0}


@pytest.fixture
async def desk(urls: Urls) -> AsyncIterator[House]:
    """A house where the test brings every result."""
    async with running_house(urls, **BY_HAND) as house:
        yield house


async def work(house: House, body: Any, attempt_id: str | None) -> Disposition:
    """Bring a result to the worker's desk, as intake does for the URL of this attempt."""
    headers = {"provider": "mpesa", "received_at": utc_now().isoformat()}
    if attempt_id is not None:
        headers["attempt_id"] = str(UUID(attempt_id))
    (end,) = await house.services.webhooks.process([Message(str(uuid4()), encoded(body), headers)])
    return end


async def paid(house: House, merchant: Merchant, receipt: str) -> dict[str, Any]:
    """A completed payment."""
    payment = await waiting(house, merchant, "mpesa")
    attempt = attempt_of(payment)
    await house.act("mpesa", attempt["provider_references"][0], "pay")
    await work(house, stk_callback(*attempt["provider_references"], receipt=receipt), attempt["id"])
    payment = await merchant.payment(payment["id"])
    assert (payment["status"], attempt_of(payment)["receipt"]) == ("completed", receipt)
    return payment


async def refunding(house: House, merchant: Merchant, receipt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A payment with a refund on its way, and the refund's attempt."""
    payment = await paid(house, merchant, receipt)
    answer = await merchant.post(f"/payments/{payment['id']}/refund", key=str(uuid4()), json={"reason": "Sold out"})
    assert (answer.status_code, answer.json()["status"]) == (201, "processing"), answer.text
    payment = await merchant.payment(payment["id"])
    return payment, await attempt_of_refund(house, payment)


async def attempt_of_refund(house: House, payment: dict[str, Any]) -> dict[str, Any]:
    (row,) = await house.rows(
        """
        SELECT id::text AS id, reference, provider_references FROM attempts
        WHERE transaction_id = $1::text::uuid AND operation = 'refund'
        """,
        payment["id"],
    )
    return row


def reversal(attempt: dict[str, Any], receipt: str, code: int | str = 0, shillings: int = 250) -> Any:
    """Daraja's result of a reversal."""
    originator, conversation = attempt["provider_references"]
    told: dict[str, Any] = {
        "ResultType": 0,
        "ResultCode": code,
        "ResultDesc": "told by the test",
        "OriginatorConversationID": originator,
        "ConversationID": conversation,
        "TransactionID": "SKR0000001",
        "ReferenceData": {
            "ReferenceItem": {"Key": "QueueTimeoutURL", "Value": "http://internal/reversalresults/v1/submit"}
        },
    }
    if code == 0:
        told["ResultParameters"] = {
            "ResultParameter": [
                {"Key": "Amount", "Value": shillings},
                {"Key": "OriginalTransactionID", "Value": receipt},
            ]
        }
    return {"Result": told}


def payout(originator: str, conversation: str = "AG_20261121_00004e48cf7e3533f581", code: int = 0) -> Any:
    """Daraja's result of a B2C payout."""
    told: dict[str, Any] = {
        "ResultType": 0,
        "ResultCode": code,
        "OriginatorConversationID": originator,
        "ConversationID": conversation,
        "TransactionID": "SKB0000001",
        "ReferenceData": {"ReferenceItem": {"Key": "QueueTimeoutURL", "Value": "http://internal/b2cresults/v1/submit"}},
    }
    if code == 0:
        parameters = [
            {"Key": "TransactionAmount", "Value": 250},
            {"Key": "TransactionReceipt", "Value": "SKB0000001"},
        ]
        told["ResultParameters"] = {"ResultParameter": parameters}
    return {"Result": told}


def disbelieved(logs: Any) -> list[str]:
    return [entry["reason"] for entry in logs if entry["event"] == "webhook.not_believed"]


# A refund from beginning to end


async def test_a_refund_over_the_api_completes_by_the_result_that_comes_to_its_url(house: House) -> None:
    ada = await house.merchant()
    payment = await ada.pay("mpesa")
    payment = await house.until(ada, payment["id"], "completed")
    path, key = f"/payments/{payment['id']}/refund", str(uuid4())
    answer = await ada.post(path, key=key, json={"reason": "Sold out"})
    assert answer.status_code == 201, answer.text
    refund = answer.json()
    assert (refund["status"], refund["amount_minor"]) == ("processing", 25_000)
    payment = await house.until(ada, payment["id"], "refunded")
    assert story(payment)[-2:] == ["refund.processing", "refund.completed"]
    assert (await ada.get(f"/payments/{payment['id']}/refunds/{refund['id']}")).json()["status"] == "completed"
    assert await books(house) == GIVEN_BACK
    repeat = await ada.post(path, key=key, json={"reason": "Sold out"})
    assert (repeat.content, repeat.headers["idempotent-replayed"]) == (answer.content, "true")
    (charge,) = (await house.charges("mpesa"))["charges"]
    assert (charge["money_taken_minor"], charge["refunded_minor"]) == (25_000, 25_000)


async def test_a_part_cannot_be_given_back(desk: House) -> None:
    ada = await desk.merchant()
    payment = await paid(desk, ada, "SKP0000001")
    answer = await ada.post(f"/payments/{payment['id']}/refund", key=str(uuid4()), json={"amount": "100"})
    assert (answer.status_code, answer.json()["code"]) == (422, "order_not_acceptable")
    assert answer.json()["errors"][0]["pointer"] == "/body/amount"
    assert (await ada.payment(payment["id"]))["version"] == payment["version"]
    assert await desk.rows("SELECT 1 FROM refunds") == []
    whole = await ada.post(f"/payments/{payment['id']}/refund", key=str(uuid4()), json={"amount": "250"})
    assert whole.status_code == 201


@pytest.mark.parametrize("code", [11, "R000001"])
async def test_a_refund_that_m_pesa_declines_leaves_the_payment_completed(desk: House, code: int | str) -> None:
    ada = await desk.merchant()
    payment, refund = await refunding(desk, ada, "SKP0000002")
    assert (await work(desk, reversal(refund, "SKP0000002", code), refund["id"])).ending is Ending.DONE
    payment = await ada.payment(payment["id"])
    assert (payment["status"], story(payment)[-1]) == ("completed", "refund.failed")
    assert await books(desk) == COLLECTED


async def test_a_result_that_comes_thrice_gives_back_once(desk: House) -> None:
    ada = await desk.merchant()
    payment, refund = await refunding(desk, ada, "SKP0000003")
    for _ in range(3):
        assert (await work(desk, reversal(refund, "SKP0000003"), refund["id"])).ending is Ending.DONE
    payment = await ada.payment(payment["id"])
    assert (payment["status"], story(payment).count("refund.completed")) == ("refunded", 1)
    assert await books(desk) == GIVEN_BACK


# Whose result it is


async def test_another_refunds_result_on_this_ones_url_does_nothing(desk: House) -> None:
    ada = await desk.merchant()
    one, refund_of_one = await refunding(desk, ada, "SKP0000004")
    other, refund_of_other = await refunding(desk, ada, "SKP0000005")
    before = [(await ada.payment(payment["id"]))["version"] for payment in (one, other)]
    for code in (0, 11):
        with capture_logs() as logs:
            end = await work(desk, reversal(refund_of_other, "SKP0000005", code), refund_of_one["id"])
        assert (end.ending, disbelieved(logs)) == (Ending.DONE, ["it speaks of another order"])
    assert counted(desk, "mpesa", "ignored") == 2
    assert [(await ada.payment(payment["id"]))["version"] for payment in (one, other)] == before
    # And the genuine one is not taken for a duplicate of it.
    await work(desk, reversal(refund_of_other, "SKP0000005"), refund_of_other["id"])
    assert (await ada.payment(other["id"]))["status"] == "refunded"
    assert (await ada.payment(one["id"]))["status"] == "completed"


async def test_a_payouts_result_that_names_another_reference_does_nothing_where_no_ids_are_known(desk: House) -> None:
    """The order's answer was lost, so the token alone knows the order; but the body says that it is of another."""
    ada = await desk.merchant()
    payment, refund = await refunding(desk, ada, "SKP0000006")
    await desk.rows(
        "UPDATE attempts SET provider_references = '{}', operation = 'payout' WHERE id = $1::text::uuid", refund["id"]
    )
    with capture_logs() as logs:
        end = await work(desk, payout("att" + "7" * 26, code=2040), refund["id"])
    assert (end.ending, disbelieved(logs)) == (Ending.DONE, ["it speaks of another order"])
    assert (await ada.payment(payment["id"]))["version"] == payment["version"]


async def test_a_lost_orders_refund_is_found_by_its_token(desk: House) -> None:
    ada = await desk.merchant()
    payment, refund = await refunding(desk, ada, "SKP0000007")
    await desk.rows("UPDATE attempts SET provider_references = '{}' WHERE id = $1::text::uuid", refund["id"])
    assert (await work(desk, reversal(refund, "SKP0000007"), refund["id"])).ending is Ending.DONE
    assert (await ada.payment(payment["id"]))["status"] == "refunded"


@pytest.mark.parametrize("kind", ["refund", "payout"])
async def test_a_result_on_a_payments_own_url_never_settles_the_payment(desk: House, kind: str) -> None:
    ada = await desk.merchant()
    payment = await waiting(desk, ada, "mpesa")
    attempt = attempt_of(payment)
    body = reversal(attempt, "SKP0000008") if kind == "refund" else payout(attempt["reference"])
    end = await work(desk, body, attempt["id"])
    assert end.ending is Ending.RETRY
    assert (await ada.payment(payment["id"]))["version"] == payment["version"]
    assert await books(desk) == {}


async def test_a_result_without_a_token_or_with_a_foreign_one_does_nothing(desk: House) -> None:
    ada = await desk.merchant()
    payment, refund = await refunding(desk, ada, "SKP0000009")
    body = reversal(refund, "SKP0000009")
    token = callback_token(refund["id"])
    for wrong in (token[:32] + "0" * 32, callback_token(str(uuid4()))[:32] + token[32:]):
        assert (await send_mpesa(desk, wrong, body)).status_code == 401
    with capture_logs() as logs:
        end = await work(desk, body, None)  # no such message is let in; one put into the queue is not believed either
    assert (end.ending, disbelieved(logs)) == (Ending.DONE, ["no token"])
    assert (await ada.payment(payment["id"]))["version"] == payment["version"]
    assert await books(desk) == COLLECTED


async def test_a_token_of_another_attempt_of_ours_that_is_no_refund_leaves_the_refund_alone(desk: House) -> None:
    ada = await desk.merchant()
    payment, refund = await refunding(desk, ada, "SKP0000010")
    other = await waiting(desk, ada, "mpesa", amount="300")
    end = await work(desk, reversal(refund, "SKP0000010"), attempt_of(other)["id"])
    assert end.ending is Ending.RETRY
    assert (await ada.payment(payment["id"]))["version"] == payment["version"]
    assert (await ada.payment(other["id"]))["version"] == other["version"]


# The queue's timeout


@pytest.mark.parametrize("notice", ["timeout", "timeout_told_as_failure"])
async def test_the_queues_timeout_of_a_payout_never_fails_it_whatever_its_body_says(urls: Urls, notice: str) -> None:
    """The body of it is documented nowhere: that of a failure must not release the hold of money that may still go out."""
    async with running_house(
        urls, amqp_url="", timer_interval_seconds=3_600.0, simulator={"automatic_customer": False}
    ) as house:
        ada = await house.merchant()
        await fill(house, ada, 200_000, "KES")
        withdrawal = await began(ada, "mpesa")
        reference = await reference_of(ada, withdrawal["id"])
        assert (await house.act("mpesa", reference, notice)).is_success
        await eventually(lambda: counted(house, "mpesa", "accepted") == 1)
        await eventually(lambda: asked_about(house), what="the question what became of it")
        stands = await until(ada, withdrawal["id"], "processing")
        assert await purse(house, ada, "KES") == (150_000, 50_000)
        assert (await house.act("mpesa", reference, "pay")).is_success
        stands = await until(ada, withdrawal["id"], "completed")
        assert "withdrawal.failed" not in payout_story(stands)
        assert await purse(house, ada, "KES") == (150_000, 0)
        await audit(house)


async def asked_about(house: House) -> bool:
    rows = (await house.simulator.get("/_control/requests", params={"provider": "mpesa"})).json()["requests"]
    return any("transactionstatus" in row["path"] for row in rows)
