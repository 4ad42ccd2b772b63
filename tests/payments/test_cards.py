"""A card's number in a payment: charged where the installation accepts it, refused where it does not, and kept nowhere."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from payflow.gateway.contract import Result
from tests.house import House, Merchant, Urls, running_house

CHARGE, AUTHORISE = "/api/v1/merchant/cards/charge", "/api/v1/merchant/cards/otp/authorize"
RIGHT, WRONG = "123456", "908172"
CARD = {"number": "4111111111111111", "expiry_month": "12", "expiry_year": "2027", "cvv": "0417"}
WITH_OTP = CARD | {"number": "5060995994247093", "pin": "904716283559"}
WITH_3DS = CARD | {"number": "4000000000000002"}


@pytest.fixture(scope="module")
async def house(urls: Urls) -> AsyncIterator[House]:
    """Nobody acts on the hosted page that is opened before the charge, and no webhook is quicker than the answer."""
    simulator = {"automatic_customer": False, "deliver_webhooks": False, "hang_seconds": 0.02}
    settings: dict[str, Any] = {"card_details_accepted": True, "timer_interval_seconds": 3_600.0}
    async with running_house(urls, amqp_url="", simulator=simulator, **settings) as house:
        yield house


@pytest.fixture
async def ben(house: House) -> Merchant:
    return await house.merchant()


async def charge(ben: Merchant, card: dict[str, str] = CARD, **changes: Any) -> dict[str, Any]:
    return await ben.pay("moniepoint", method="card", payment_details={"card": card}, **changes)


async def submit(ben: Merchant, payment: dict[str, Any], otp: str, key: str) -> dict[str, Any]:
    answer = await ben.post(f"/payments/{payment['id']}/submit-otp", key=key, json={"otp": otp})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def verify(ben: Merchant, payment: dict[str, Any]) -> dict[str, Any]:
    return dict((await ben.post(f"/payments/{payment['id']}/verify")).json())


async def acts(house: House, ben: Merchant, payment: dict[str, Any], action: str) -> None:
    (attempt,) = (await ben.payment(payment["id"]))["attempts"]
    answer = await house.act("moniepoint", attempt["reference"], action)
    assert answer.is_success, answer.text


async def calls(house: House, path: str) -> int:
    listed = (await house.simulator.get("/_control/requests", params={"provider": "moniepoint"})).json()["requests"]
    return sum(request["path"] == path for request in listed)


async def test_a_card_without_a_challenge_is_paid_with_the_fee_that_the_query_tells(ben: Merchant) -> None:
    payment = await charge(ben)
    assert (payment["status"], payment["next_action"], payment["checkout_url"]) == ("completed", None, None)
    whole = await ben.payment(payment["id"])
    assert (whole["paid_minor"], whole["fee_minor"]) == (420_000, 1_000)


async def test_an_otp_completes_and_a_wrong_one_asks_again(house: House, ben: Merchant) -> None:
    payment = await charge(ben, WITH_OTP)
    assert (payment["status"], payment["next_action"]["type"]) == ("requires_action", "otp")
    before = await calls(house, AUTHORISE)
    verified = await verify(ben, payment)
    assert (verified["status"], verified["next_action"]) == ("requires_action", payment["next_action"])
    again = await submit(ben, payment, WRONG, "k1")
    assert (again["status"], again["next_action"]["type"]) == ("requires_action", "otp")
    assert "not taken" in again["next_action"]["display_text"]
    assert (await submit(ben, payment, RIGHT, "k2"))["status"] == "completed"
    assert await calls(house, AUTHORISE) == before + 2


async def test_a_card_that_its_bank_declines(house: House, ben: Merchant) -> None:
    declined = await charge(ben, amount="4209.01")
    assert (declined["status"], declined["failure"]["code"]) == ("failed", "declined")
    waiting = await charge(ben, WITH_OTP, amount="4209.01")
    ended = await submit(ben, waiting, RIGHT, "k1")
    assert (ended["status"], ended["failure"]["code"]) == ("failed", "declined")
    unknown = await charge(ben, CARD | {"number": "5555555555554444"})
    assert (unknown["status"], unknown["failure"]["code"]) == ("failed", "card_not_supported")


async def test_a_challenge_at_the_bank_is_a_page_to_go_to(house: House, ben: Merchant) -> None:
    payment = await charge(ben, WITH_3DS)
    assert (payment["status"], payment["next_action"]["type"]) == ("requires_action", "redirect")
    await acts(house, ben, payment, "pay")
    assert (await verify(ben, payment))["status"] == "completed"


async def test_while_the_bank_decides_the_payment_is_processing(house: House, ben: Merchant) -> None:
    payment = await charge(ben, amount="4209.05")
    assert (payment["status"], payment["next_action"]) == ("processing", None)
    assert (await verify(ben, payment))["status"] == "processing"
    await acts(house, ben, payment, "pay")
    assert (await verify(ben, payment))["status"] == "completed"


@pytest.mark.parametrize("outcome", ["timeout_after_charging", "dropped_after_charging", "server_error_after_charging"])
async def test_a_charge_without_an_answer_is_asked_about_and_never_sent_again(
    house: House, ben: Merchant, outcome: str
) -> None:
    before = await calls(house, CHARGE)
    await house.outcome("moniepoint", "success", times=1)  # of the opening
    await house.outcome("moniepoint", outcome, times=1)
    payment = await charge(ben)
    assert payment["status"] == "processing"
    assert (await verify(ben, payment))["status"] == "completed"
    assert await calls(house, CHARGE) == before + 1
    assert len((await ben.payment(payment["id"]))["attempts"]) == 1


async def test_a_key_stands_for_its_first_answer_whatever_the_code_on_the_card(house: House, ben: Merchant) -> None:
    body = {"provider": "moniepoint", "amount": "50", "currency": "NGN", "customer": {"email": "a@example.com"}}
    before = await calls(house, CHARGE)

    async def pay(**card: str) -> httpx.Response:
        return await ben.initialize(body | {"method": "card", "payment_details": {"card": CARD | card}}, key="k1")

    first = await pay()
    for again in (await pay(), await pay(cvv="999", pin="1111")):
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
        assert again.json()["id"] == first.json()["id"]
    assert (await pay(number=WITH_OTP["number"])).json()["code"] == "idempotency_key_reused"
    assert await calls(house, CHARGE) == before + 1


async def test_only_those_are_considered_that_charge_a_number(ben: Merchant) -> None:
    body = {
        "amount": "50",
        "currency": "NGN",
        "customer": {"email": "a@example.com"},
        "payment_details": {"card": CARD},
    }
    answer = await ben.initialize(body | {"method": "card"})
    routed = (await ben.payment(answer.json()["id"]))["attempts"][0]
    assert routed["provider"] == "moniepoint"
    passed_over = {item["provider"]: item["why"] for item in routed["routing"]["considered"]}
    assert passed_over["paystack"] == "Paystack takes cards on its own page only."
    named = await ben.initialize(body | {"method": "card", "provider": "paystack"})
    assert (named.status_code, named.json()["code"]) == (422, "order_not_acceptable")
    assert named.json()["errors"][0]["pointer"] == "/body/payment_details/card"
    other = await ben.initialize(body | {"method": "bank_transfer", "provider": "moniepoint"})
    assert (other.status_code, other.json()["errors"][0]["pointer"]) == (422, "/body/method")


async def test_switched_off_a_card_is_refused_before_anything_exists(shop: House, ada: Merchant) -> None:
    body = {
        "amount": "50",
        "currency": "NGN",
        "customer": {"email": "a@example.com"},
        "payment_details": {"card": CARD},
    }
    before = await calls(shop, CHARGE)
    for path in ("/payments/initialize", "/payments/initiate"):
        answer = await ada.post(path, key="k1", json=body | {"provider": "moniepoint", "method": "card"})
        assert (answer.status_code, answer.json()["code"]) == (422, "card_details_disabled")
        (error,) = answer.json()["errors"]
        assert error["pointer"] == "/body/payment_details/card"
        assert "hosted page" in error["detail"]
    assert (await ada.get("/payments")).json()["data"] == []
    assert await calls(shop, CHARGE) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", "4111111111111110"),
        ("number", "4111 1111 1111 1111"),
        ("number", "411111111111"),
        ("number", "٤١١١١١١١١١١١١١١١"),
        ("number", 4111111111111111),
        ("expiry_month", "13"),
        ("expiry_year", "27"),
        ("cvv", "41"),
        ("pin", "90471628355a"),
        ("4111111111111111", "x"),
    ],
)
async def test_what_cannot_be_right_is_named_and_never_quoted(ben: Merchant, name: str, value: Any) -> None:
    body = {"provider": "moniepoint", "amount": "50", "currency": "NGN", "method": "card"}
    answer = await ben.initialize(body | {"payment_details": {"card": CARD | {name: value}}})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"].startswith("/body/payment_details/card/")
    for given in (str(value), *CARD.values()):
        assert len(given) < 3 or given not in answer.text


async def test_an_adapter_that_breaks_leaves_no_trace_of_the_card(
    house: House, ben: Merchant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(order: Any, _credentials: Any) -> Result:
        await asyncio.sleep(0)
        raise ValueError(f"cannot send {order.details.card.pin.get_secret_value()}")

    monkeypatch.setattr(house.services.registry.get("moniepoint"), "collect", broken)
    assert (await charge(ben, WITH_OTP))["status"] == "processing"
    told = capsys.readouterr()
    assert "payment.adapter_failed" in told.out + told.err
    assert WITH_OTP["pin"] not in told.out + told.err
