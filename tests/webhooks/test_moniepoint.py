"""Moniepoint from end to end: money that is not what was asked for, and webhooks that its sandbox sends unsigned."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from payflow.simulator.settings import SimulatorSettings
from tests.house import House, Urls, eventually, running_house, simulator_credentials

WEBHOOK = "/api/v1/webhooks/moniepoint"
BY_HAND: dict[str, Any] = {
    "simulator": {"automatic_customer": False},
    "timer_interval_seconds": 3_600.0,
    "amqp_url": "",
}


@pytest.fixture
async def house(urls: Urls) -> AsyncIterator[House]:
    """The customer acts when told, and nobody asks Moniepoint unless a webhook makes us."""
    async with running_house(urls, **BY_HAND) as house:
        yield house


@pytest.fixture
async def lenient(urls: Urls) -> AsyncIterator[House]:
    """With test credentials that let unsigned webhooks in, from a sandbox that signs none."""
    credentials = simulator_credentials(SimulatorSettings())
    credentials["moniepoint"]["allow_unsigned_webhooks"] = SecretStr("true")
    simulator = {**BY_HAND["simulator"], "moniepoint_sign_webhooks": False}
    async with running_house(urls, **{**BY_HAND, "simulator": simulator}, provider_credentials=credentials) as house:
        yield house


def attempt_reference(payment: dict[str, Any]) -> str:
    return str(payment["attempts"][0]["reference"])


async def post(house: House, body: dict[str, Any]) -> httpx.Response:
    return await house.client().post(WEBHOOK, content=json.dumps(body).encode())


def success(reference: str, transaction_reference: str, amount: str) -> dict[str, Any]:
    data = {
        "paymentReference": reference,
        "transactionReference": transaction_reference,
        "amountPaid": amount,
        "settlementAmount": amount,
        "currency": "NGN",
        "paymentStatus": "PAID",
    }
    return {"eventType": "SUCCESSFUL_TRANSACTION", "eventData": data}


@pytest.mark.parametrize(
    ("outcome", "action", "received"), [("wrong_amount", "pay", 210_000), ("silent", "overpay", 425_000)]
)
async def test_another_amount_goes_to_review_and_credits_nobody(
    house: House, outcome: str, action: str, received: int
) -> None:
    await house.outcome("moniepoint", outcome, times=1)
    ada = await house.merchant()
    payment = await ada.payment((await ada.pay("moniepoint"))["id"])
    await house.act("moniepoint", attempt_reference(payment), action)
    reviewed = await house.until(ada, payment["id"], "under_review")
    assert reviewed["paid_minor"] == 0
    told = reviewed["timeline"][-1]
    assert (told["type"], told["data"]["received_minor"]) == ("payment.under_review", received)
    assert told["data"]["reason"] == "amount_mismatch"


async def test_a_bank_transfer_shows_its_account_and_survives_one_of_a_wrong_amount(house: House) -> None:
    ada = await house.merchant()
    payment = await ada.pay("moniepoint", method="bank_transfer")
    assert payment["next_action"]["type"] == "transfer"
    assert payment["next_action"]["fields"]["amount"] == "4200.00"
    reference = attempt_reference(await ada.payment(payment["id"]))
    await house.act("moniepoint", reference, "reject")

    async def declined() -> bool:
        return (await ada.payment(payment["id"]))["attempts"][0]["status"] == "declined"

    await eventually(declined)
    assert (await ada.payment(payment["id"]))["status"] == "requires_action"
    await house.act("moniepoint", reference, "pay")
    assert (await house.until(ada, payment["id"], "completed"))["paid_minor"] == 420_000


async def test_an_unsigned_webhook_is_refused_unless_the_credentials_allow_it(house: House) -> None:
    ada = await house.merchant()
    payment = await ada.payment((await ada.pay("moniepoint"))["id"])
    answer = await post(house, success(attempt_reference(payment), "MNFY|1|2|3", "4200.00"))
    assert answer.status_code == 401
    assert (await ada.payment(payment["id"]))["status"] == "requires_action"


async def test_an_unsigned_webhook_makes_us_ask_and_the_answer_decides(lenient: House) -> None:
    ada = await lenient.merchant()
    payment = await ada.payment((await ada.pay("moniepoint"))["id"])
    reference, known = attempt_reference(payment), payment["attempts"][0]["provider_references"][0]
    other = await ada.payment((await ada.pay("moniepoint"))["id"])

    # Forged: nothing was paid, whatever it says and whichever transaction it names.
    for forged in (known, other["attempts"][0]["provider_references"][0], "MNFY|1|2|3"):
        assert (await post(lenient, success(reference, forged, "4200.00"))).status_code == 200

    async def asked() -> bool:
        log = (await lenient.simulator.get("/_control/requests?provider=moniepoint")).json()["requests"]
        return any(row["path"].endswith("/query") for row in log)

    await eventually(asked)
    assert (await ada.payment(payment["id"]))["status"] == "requires_action"

    # The genuine one is no duplicate of it, unsigned as it is.
    await lenient.act("moniepoint", reference, "pay")
    paid = await lenient.until(ada, payment["id"], "completed")
    assert paid["paid_minor"] == 420_000
    assert [event["type"] for event in paid["timeline"]].count("payment.completed") == 1
    assert (await ada.payment(other["id"]))["status"] == "requires_action"
