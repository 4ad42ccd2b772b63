"""C-Pay signs nothing and documents no callback: what comes to an attempt's own URL makes us ask, no more."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.house import House, Merchant, Urls, running_house
from tests.webhooks.desk import attempt_of, callback_token, counted, encoded, send, until_counted

BY_HAND: dict[str, Any] = {
    "simulator": {"automatic_customer": False, "deliver_webhooks": False},
    "timer_interval_seconds": 3_600.0,
    "amqp_url": "",
}


@pytest.fixture(scope="module")
async def desk(urls: Urls) -> AsyncIterator[House]:
    """A house where the customer acts only when told, and the test itself brings the callbacks."""
    async with running_house(urls, **BY_HAND) as house:
        yield house


async def started(desk: House, **changes: Any) -> tuple[Merchant, dict[str, Any], str]:
    ada = await desk.merchant()
    payment = await ada.payment((await ada.pay("cpay", **changes))["id"])
    return ada, payment, f"cpay/{callback_token(attempt_of(payment)['id'])}"


def processed(reference: str) -> bytes:
    return encoded({"extTransactionId": reference, "statusCode": "200", "paymentRequestStatus": "processed",
                    "reasonCode": "paymentComplete"})  # fmt: skip


async def test_a_forged_callback_completes_nothing_and_the_genuine_one_after_it_does(desk: House) -> None:
    ada, payment, path = await started(desk)
    reference = attempt_of(payment)["reference"]
    before = counted(desk, "cpay", "unchanged")
    assert (await send(desk, path, processed(reference))).status_code == 200
    await until_counted(desk, "cpay", "unchanged", before + 1)
    now = await ada.payment(payment["id"])
    assert (now["status"], now["paid_minor"]) == ("requires_action", 0)
    assert (await desk.act("cpay", reference, "pay")).is_success
    assert (await send(desk, path, processed(reference))).status_code == 200
    paid = await desk.until(ada, payment["id"], "completed")
    assert paid["paid_minor"] == paid["amount_minor"]
    assert (await desk.charges("cpay", reference))["totals"]["submissions"] == 1


async def test_the_callback_of_a_payment_given_up_here_waits_until_the_status_confirms_it(desk: House) -> None:
    """The timer asks about open payments only: without the callback's return the money would never be found."""
    ada, payment, path = await started(desk)
    reference = attempt_of(payment)["reference"]
    assert (await ada.post(f"/payments/{payment['id']}/cancel")).json()["status"] == "cancelled"
    before = counted(desk, "cpay", "retried")
    assert (await send(desk, path, processed(reference))).status_code == 200
    await until_counted(desk, "cpay", "retried", before + 1)
    assert (await ada.payment(payment["id"]))["status"] == "cancelled"
    assert (await desk.act("cpay", reference, "pay")).is_success
    paid = await desk.until(ada, payment["id"], "completed")
    assert paid["paid_minor"] == paid["amount_minor"]


async def test_a_callback_of_any_shape_makes_us_ask(desk: House) -> None:
    ada, payment, path = await started(desk)
    assert (await desk.act("cpay", attempt_of(payment)["reference"], "decline")).is_success
    assert (await send(desk, path, b'{"anything":1}')).status_code == 200
    assert (await desk.until(ada, payment["id"], "failed"))["failure"]["code"] == "declined"


async def test_without_the_attempts_own_token_nobody_is_heard(desk: House) -> None:
    _, payment, path = await started(desk)
    body = processed(attempt_of(payment)["reference"])
    for wrong in (path[:-1] + ("0" if path[-1] != "0" else "1"), "cpay/" + "0" * 64):
        assert (await send(desk, wrong, body)).status_code == 401
    assert (await send(desk, "cpay", body)).status_code in (401, 404)


async def test_an_order_whose_answer_was_lost_is_found_and_completed_by_our_reference(desk: House) -> None:
    await desk.outcome("cpay", "server_error_after_charging", times=1)
    ada, payment, path = await started(desk)
    attempt = attempt_of(payment)
    assert (payment["status"], attempt["provider_references"]) == ("processing", [])
    assert (await desk.act("cpay", attempt["reference"], "pay")).is_success
    assert (await send(desk, path, processed(attempt["reference"]))).status_code == 200
    await desk.until(ada, payment["id"], "completed")


@pytest.mark.parametrize(("method", "action"), [("ussd", "handset_prompt"), ("otp", "otp"), ("card", "redirect")])
async def test_each_method_asks_the_customer_for_its_own(desk: House, method: str, action: str) -> None:
    _, payment, _ = await started(desk, method=method)
    assert (payment["status"], payment["next_action"]["type"]) == ("requires_action", action)
    assert (payment["checkout_url"] is not None) == (method == "card")
