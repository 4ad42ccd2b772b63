"""What `POST /payments/initialize` refuses, and that nothing is left behind by it."""

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.house import MPESA, PAYSTACK, STRIPE, House, Merchant


async def count(shop: House) -> tuple[int, int]:
    (row,) = await shop.rows(
        "SELECT (SELECT count(*) FROM transactions) AS transactions, (SELECT count(*) FROM idempotency_keys) AS keys"
    )
    return row["transactions"], row["keys"]


async def send(ada: Merchant, text: str) -> Any:
    """A body as it is written, since a float would already have lost what was meant."""
    return await ada.post(
        "/payments/initialize", key=str(uuid4()), content=text, headers={"content-type": "application/json"}
    )


async def refused(shop: House, ada: Merchant, text: str, pointer: str, status: int = 422) -> dict[str, Any]:
    """The problem; nothing was written, nothing was asked of a provider."""
    before = await count(shop)
    answer = await send(ada, text)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert await count(shop) == before
    problem = dict(answer.json())
    if pointer:
        assert pointer in [error["pointer"] for error in problem["errors"]]
    return problem


def written(amount: str, body: dict[str, Any] = PAYSTACK, **changes: Any) -> str:
    rest = json.dumps({name: value for name, value in {**body, **changes}.items() if name != "amount"})
    return f'{{"amount": {amount}, {rest[1:]}'


@pytest.mark.parametrize(
    ("amount", "currency", "minor", "text"),
    [
        ("0.1", "NGN", 10, "0.10"),
        ("5000", "NGN", 500_000, "5000.00"),
        ('"5000.50"', "NGN", 500_050, "5000.50"),
        ("19.99", "NGN", 1_999, "19.99"),
        ("4.35", "NGN", 435, "4.35"),  # 434.99999999999994 as a float
        ("1e3", "NGN", 100_000, "1000.00"),
        ("1.5E+1", "NGN", 1_500, "15.00"),
        ("90071992547409.93", "NGN", None, None),  # beyond what is taken, and beyond a float
    ],
)
async def test_an_amount_is_read_from_its_text(
    shop: House, ada: Merchant, amount: str, currency: str, minor: int | None, text: str | None
) -> None:
    answer = await send(ada, written(amount, currency=currency))
    if minor is None:
        assert answer.status_code == 422
        return
    assert answer.status_code == 201, answer.text
    assert (answer.json()["amount_minor"], answer.json()["amount"]) == (minor, text)


@pytest.mark.parametrize(
    "amount",
    [
        "19.999", "0.001", '"19.999"', '"10.000000000000000000000000001"', "10.000000000000000000000000000000000001",
        "0", "0.00", "-5", '"-5"', '"0"', "true", "false", "null", '""', '"five"', '"NaN"', '"Infinity"', '"1e3"', '"1_000"',
        '" 5"', '"+5"', '"5."', '".5"', '"٥"', "[]", "{}", "1e400", "1e-400", "1e999999",
        "10000000001", '"99999999999"', "9" * 200,
    ],
)  # fmt: skip
async def test_an_amount_that_is_no_payment_is_refused(shop: House, ada: Merchant, amount: str) -> None:
    problem = await refused(shop, ada, written(amount), "")
    assert {error["pointer"].rpartition("/")[2] for error in problem["errors"]} == {"amount"}


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity", "0x10", "01", "1,5", "5e", "9" * 5_000])
async def test_an_amount_that_is_not_json_is_malformed(shop: House, ada: Merchant, amount: str) -> None:
    problem = await refused(shop, ada, written(amount), "", status=400)
    assert problem["code"] == "malformed_request"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 20_000, "\ufeff{}", "{'a': 1}"])
async def test_a_body_that_is_no_object_is_refused(shop: House, ada: Merchant, text: str) -> None:
    before = await count(shop)
    answer = await send(ada, text)
    assert answer.status_code in (400, 422)
    assert await count(shop) == before


@pytest.mark.parametrize(
    ("body", "amount", "currency", "minor"),
    [(STRIPE, "500", "JPY", 500), (STRIPE, "1.230", "KWD", 1_230), (MPESA, "250", "KES", 25_000)],
)
async def test_each_currency_has_its_own_decimals(
    shop: House, ada: Merchant, body: dict[str, Any], amount: str, currency: str, minor: int
) -> None:
    payment = (await send(ada, written(amount, body, currency=currency))).json()
    assert (payment["amount_minor"], payment["currency"]) == (minor, currency)


@pytest.mark.parametrize(
    ("body", "amount", "currency"),
    [
        (STRIPE, "0.5", "JPY"),
        (STRIPE, "1.2345", "KWD"),
        (STRIPE, "1.234", "KWD"),  # Stripe wants the third decimal to be 0
        (MPESA, "250.50", "KES"),  # no cents
        (MPESA, "250001", "KES"),
        (STRIPE, "1000000", "USD"),
    ],
)
async def test_decimals_that_a_currency_or_provider_lacks_are_refused(
    shop: House, ada: Merchant, body: dict[str, Any], amount: str, currency: str
) -> None:
    await refused(shop, ada, written(amount, body, currency=currency), "/body/amount")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"currency": "ZZZ"}, "currency"),
        ({"currency": "XAU"}, "currency"),
        ({"currency": "ngn"}, "currency"),
        ({"currency": 566}, "currency"),
        ({"provider": "Paystack!"}, "provider"),
        ({"method": "Card"}, "method"),
        ({"description": ""}, "description"),
        ({"description": " x"}, "description"),
        ({"description": "a\x00b"}, "description"),
        ({"description": "x" * 201}, "description"),
        ({"description": "card 4000 0566 5566 5556"}, "description"),
        ({"metadata": {"order": {"items": [4000056655665556]}}}, "metadata"),
        ({"metadata": {"5399-8383-8383-8381": "paid"}}, "metadata"),
        ({"customer_id": "378282246310005"}, "customer_id"),
        ({"customer": {"name": "4242424242424242"}}, "name"),
        ({"customer_id": ""}, "customer_id"),
        ({"customer_id": "x" * 129}, "customer_id"),
        ({"customer": {"email": "not an address"}}, "email"),
        ({"customer": {"email": "a@b"}}, "email"),
        ({"customer": {"email": "x" * 250 + "@example.com"}}, "email"),
        ({"customer": {"phone": "0708374149"}}, "phone"),
        ({"customer": {"phone": "+1"}}, "phone"),
        ({"customer": {"phone": "+254708374149999999"}}, "phone"),
        ({"customer": {"name": "a\nb"}}, "name"),
        ({"customer": {"card": "4242"}}, "card"),
        ({"customer": None}, "customer"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_a_field_that_is_wrong_is_named(shop: House, ada: Merchant, changes: dict[str, Any], field: str) -> None:
    problem = await refused(shop, ada, json.dumps({**PAYSTACK, **changes}), "")
    assert problem["code"] == "invalid_request"
    assert [error["pointer"].rpartition("/")[2] for error in problem["errors"]] == [field]


@pytest.mark.parametrize("field", ["amount", "currency"])
async def test_a_field_that_is_missing_is_named(shop: House, ada: Merchant, field: str) -> None:
    await refused(shop, ada, json.dumps({k: v for k, v in PAYSTACK.items() if k != field}), f"/body/{field}")


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        " https://shop.example/return",
        "https://sh op.example/return",
        "https://shop.example/return\u2003",
        "https://evil.example\\.shop.example/return",
        "JAVASCRIPT://x/%0aalert(1)",
        "data:text/html,x",
        "http://shop.example/return",
        "http://localhost.evil.example/",
        "https://user:secret@shop.example/",
        "https://user@shop.example/",
        "//shop.example/",
        "/return",
        "https://",
        "https://shop.example:99999/",
        "https://[::1/",
        "https://shop.example/\r\nSet-Cookie: a",
        "https://shop.example/" + "x" * 2_000,
        "ftp://shop.example/",
    ],
)
async def test_a_return_url_that_could_harm_is_refused(shop: House, ada: Merchant, url: str) -> None:
    problem = await refused(shop, ada, json.dumps({**PAYSTACK, "return_url": url}), "/body/return_url")
    assert "secret" not in json.dumps(problem)


@pytest.mark.parametrize(
    "url", ["https://shop.example/return?a=1#b", "http://localhost:3000/", "http://127.0.0.1/", "http://[::1]:8080/x"]
)
async def test_a_return_url_is_kept_as_it_was_given(shop: House, ada: Merchant, url: str) -> None:
    assert (await ada.pay(return_url=url))["return_url"] == url


@pytest.mark.parametrize(
    "metadata",
    [
        '{"a": "x\\u0000y"}',
        '{"a\\u0000": 1}',
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"a": 9223372036854775808}',
        '{"a": -9223372036854775809}',
        '{"a": 1e400}',
        '{"a": ' + "[" * 17 + "]" * 17 + "}",
        '{"a": "' + "x" * 8_200 + '"}',
        "{" + ",".join(f'"{n}": 1' for n in range(51)) + "}",
        "[]",
        '"text"',
        "null",
    ],
)
async def test_metadata_that_cannot_be_kept_is_refused(shop: House, ada: Merchant, metadata: str) -> None:
    text = written('"5000.00"').replace("{", f'{{"metadata": {metadata}, ', 1)
    problem = await refused(shop, ada, text, "")
    assert all("metadata" in error["pointer"] for error in problem["errors"])


async def test_metadata_is_given_back_as_it_is(shop: House, ada: Merchant) -> None:
    metadata = {
        "order": 7,
        "big": 2**63 - 1,
        "small": -(2**63),
        "ratio": 0.5,
        "deep": {"list": [1, None, True, {"text": 'ünï 🎉 \\ " {}'}]},
        "": "empty key",
    }
    payment = await ada.pay(metadata=metadata)
    assert payment["metadata"] == metadata
    assert (await ada.payment(payment["id"]))["metadata"] == metadata


async def test_a_phone_number_is_kept_in_e164(shop: House, ada: Merchant) -> None:
    payment = await ada.pay("mpesa", customer={"phone": "+254 708 374-149"})
    assert payment["customer"] == {"email": None, "phone": "+254708374149", "name": None}


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"provider": "nobody"}, "unknown_provider", "/body/provider"),
        ({"currency": "GBP"}, "order_not_acceptable", "/body/currency"),
        ({"method": "handset"}, "order_not_acceptable", "/body/method"),
        ({"customer": {}}, "order_not_acceptable", "/body/customer/email"),
        ({"provider": "mpesa", "currency": "KES", "amount": 5}, "order_not_acceptable", "/body/customer/phone"),
        ({"provider": None, "currency": "BTN", "customer": {}, "method": "ussd"}, "no_provider", ""),
    ],
)
async def test_an_order_that_no_provider_takes_is_refused(
    shop: House, ada: Merchant, changes: dict[str, Any], code: str, pointer: str
) -> None:
    problem = await refused(shop, ada, json.dumps({**PAYSTACK, **changes}), pointer)
    assert problem["code"] == code


async def test_without_a_key_nothing_is_done(shop: House, ada: Merchant) -> None:
    before = await count(shop)
    for headers, code in (
        ({}, "idempotency_key_missing"),
        ({"idempotency-key": ""}, "idempotency_key_missing"),
        ({"idempotency-key": "x" * 256}, "idempotency_key_invalid"),
        ({"idempotency-key": "a\tb"}, "idempotency_key_invalid"),
    ):
        answer = await ada.post("/payments/initialize", json=PAYSTACK, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert await count(shop) == before


async def test_without_a_credential_nothing_is_done(shop: House) -> None:
    before = await count(shop)
    answer = await shop.client().post("/api/v1/payments/initialize", json={"amount": "odd"})
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert await count(shop) == before
