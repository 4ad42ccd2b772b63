"""Whatever fits the document, or just not, is answered as the document says.

Each operation of the document gets 50 generated requests from a user and 50 from an admin, over HTTP. Half are meant to
be valid; of those, two thirds name things that are really there. An operation that never answered 2xx was not tested, and
fails here with its name: give it what it needs in `FILLS`.
"""

import asyncio
import re
import zlib
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.house import BODIES
from tests.openapi.document import document, examples, operations
from tests.openapi.stage import ROLES, Caller, Role, Stage
from tests.payouts.till import body

EXAMPLES = 50
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
CONFIG = {"generation": {"with-security-parameters": False}}  # the callers carry their own credentials
API = "/api/v1"

Fill = Callable[[Case, Caller], None]


@pytest.fixture(scope="module")
def schema() -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_dict(document(), config=SchemathesisConfig.from_dict(CONFIG))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("label", operations())
async def test_an_operation_answers_as_documented(
    stage: Stage, schema: schemathesis.BaseSchema, label: str, role: Role
) -> None:
    await asyncio.to_thread(_play, stage, schema, label, role)


async def test_what_the_document_shows_can_be_sent(stage: Stage) -> None:
    """It may name nothing that is there, but it is never malformed or invalid."""
    admin = await asyncio.to_thread(stage.caller, "admin")
    for label, operation in operations().items():
        method, path = label.split()
        for parameter in operation.get("parameters", ()):
            path = path.replace("{" + parameter["name"] + "}", (examples(parameter) or [str(uuid4())])[0])
        for kind, media in operation.get("requestBody", {}).get("content", {}).items():
            for example in examples(media):
                sent = {"data": example} if "form" in kind else {"json": example}
                headers = {"idempotency-key": str(uuid4())}
                answer = await admin.merchant.client.request(method, path, headers=headers, **sent)
                assert answer.status_code not in (400, 413, 415, 422, 500), (label, example, answer.text)
    await asyncio.to_thread(admin.give_back_credentials, "paystack")
    await asyncio.to_thread(admin.resume, "paystack")


async def test_strangers_are_refused(stage: Stage) -> None:
    secured = [label for label, operation in operations().items() if all(operation.get("security") or [{}])]
    assert len(secured) > 10
    client = stage.house.client()
    for label in secured:
        method, path = label.split()
        path = re.sub(r"{\w+}", str(uuid4()), path)
        for headers in ({}, {"authorization": "Bearer none"}, {"authorization": "Basic eDp5"}, {"x-api-key": "none"}):
            answer = await client.request(method, path, headers=headers)
            assert answer.status_code == 401, (label, headers, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"].startswith("Bearer ")


async def test_other_methods_are_refused_and_those_there_are_named(stage: Stage) -> None:
    client = stage.house.client()
    paths = document()["paths"]
    for path in paths:
        concrete = re.sub(r"{\w+}", str(uuid4()), path)
        # `/payments/initialize` could also be a `/payments/{payment_id}`.
        there = {
            method.upper()
            for other, item in paths.items()
            if re.fullmatch(re.sub(r"{\w+}", "[^/]+", other), concrete)
            for method in item
        }
        for method in sorted({"GET", "PUT", "POST", "PATCH", "DELETE"} - there):
            answer = await client.request(method, concrete)
            assert answer.status_code == 405, (method, path, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == there, path


def _play(stage: Stage, schema: schemathesis.BaseSchema, label: str, role: Role) -> None:
    caller = stage.caller(role)
    method, path = label.split()
    operation = schema[path][method]

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of([operation.as_strategy(generation_mode=mode) for mode in GenerationMode]))
    def answers_as_documented(case: Case) -> None:
        _send(case, caller, label)

    answers_as_documented()
    statuses = caller.statuses[label]
    print(f"{label} as {role}: {dict(sorted(statuses.items()))}")
    for_admins = role == "user" and "admin_only" in caller.codes[label]
    if not for_admins:
        assert any(200 <= status < 300 for status in statuses), (label, role, statuses, caller.codes[label])


def _send(case: Case, caller: Caller, label: str) -> Response:
    assert case.meta is not None
    headers = {"authorization": f"Bearer {caller.token}"}
    # What is sent depends on what was generated alone, so that a failure can be played again.
    share = zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode(errors="replace")) % 3
    if case.meta.generation.mode is GenerationMode.POSITIVE and share:
        for name, fill in PATHS.items():
            if name in case.path_parameters:
                fill(case, caller)
        if "Idempotency-Key" in case.headers:
            case.headers["Idempotency-Key"] = str(uuid4())
        if label in FILLS:
            FILLS[label](case, caller)
    if label == f"POST {API}/auth/logout":
        headers["authorization"] = f"Bearer {caller.another_login()['access_token']}"
    response = case.call_and_validate(
        base_url=caller.stage.base_url, session=caller.session, headers=headers, checks=CHECKS
    )
    caller.noted(label, response.status_code, response.text)
    if label == f"POST {API}/providers/{{name}}/config" and response.status_code == 200:
        caller.give_back_credentials(case.path_parameters["name"])
    if label == f"POST {API}/providers/{{name}}/drain" and response.status_code == 200:
        caller.resume(case.path_parameters["name"])
    return response


def _path(name: str, pool: str, member: str | None = None) -> Fill:
    def fill(case: Case, caller: Caller) -> None:
        found = caller.take(pool)
        case.path_parameters[name] = found if member is None else found[member]

    return fill


def _body(make: Callable[[Caller], dict[str, Any]]) -> Fill:
    """Over what was generated, so that the other members keep their generated values."""

    def fill(case: Case, caller: Caller) -> None:
        if isinstance(case.body, dict):
            case.body = {**case.body, **make(caller)}

    return fill


def _payment(case: Case, caller: Caller) -> None:
    """One that a provider takes, with the generated metadata and customer id."""
    bodies = list(BODIES.values())
    body = bodies[next(caller.numbers) % len(bodies)]
    kept = {name: case.body[name] for name in ("metadata", "customer_id", "description") if name in case.body}
    case.body = {**kept, **body}


def _older_payment(case: Case, caller: Caller) -> None:
    _payment(case, caller)
    case.body["provider_preference"] = case.body.pop("provider")


def _older_funding(case: Case, caller: Caller) -> None:
    _payment(case, caller)
    case.body |= BODIES["flutterwave"]


def _freeze(case: Case, caller: Caller) -> None:
    """A wallet that nothing else here uses."""
    case.path_parameters["user_id"] = caller.take("stranger")
    if isinstance(case.body, dict):
        case.body = {**case.body, "currency": "NGN"}


def _statement(case: Case, caller: Caller) -> None:
    case.query = {**(case.query or {}), "currency": "NGN"}


def _some_money_back(case: Case, caller: Caller) -> None:
    case.path_parameters["payment_id"] = caller.take("refund")["payment_id"]
    case.body = {"amount": "0.01"}


def _refund(pool: str) -> Fill:
    def fill(case: Case, caller: Caller) -> None:
        refund = caller.take(pool)
        case.path_parameters |= {"payment_id": refund["payment_id"], "refund_id": refund["id"]}

    return fill


def _older_otp(case: Case, caller: Caller) -> None:
    case.body = {"reference": caller.take("payment_waiting_for_older_otp")["reference"], "otp": "123456"}


def _otp(case: Case, caller: Caller) -> None:
    """A payment that waits for an OTP, and the right one for it."""
    case.path_parameters["payment_id"] = caller.take("payment_waiting_for_otp")["id"]
    case.body = {"otp": "123456"}


def _withdrawal(case: Case, caller: Caller) -> None:
    """One that a wallet covers, with the generated metadata."""
    caller.take("withdrawal")
    kept = {name: case.body[name] for name in ("metadata", "description") if name in case.body}
    case.body = {**kept, **body("paystack", amount="0.01")}


def _older_withdrawal(case: Case, caller: Caller) -> None:
    _withdrawal(case, caller)
    case.body |= body("flutterwave", amount="0.01")


def _transfer_otp(case: Case, caller: Caller) -> None:
    case.path_parameters["withdrawal_id"] = caller.take("withdrawal_waiting_for_otp")["id"]
    case.body = {"otp": "123456"}


def _banks(case: Case, caller: Caller) -> None:
    case.query = {"currency": "NGN"}


def _account(case: Case, caller: Caller) -> None:
    account = {"type": "bank_account", "bank_code": "057", "account_number": "0123456789"}
    case.body = {**account, "currency": "NGN", "provider": "paystack"}


def _provider(case: Case, caller: Caller) -> None:
    case.path_parameters["name"] = list(BODIES)[next(caller.numbers) % len(BODIES)]


def _configuration(case: Case, caller: Caller) -> None:
    providers = list(BODIES)
    provider = providers[next(caller.numbers) % len(providers)]
    case.path_parameters["name"] = provider
    case.body = caller.provider_credentials(provider)


def _airtime(case: Case, caller: Caller) -> None:
    """One that the provider sells, from a wallet that can pay, for another phone each time."""
    caller.take("funded_wallet")
    kept = {name: case.body[name] for name in ("metadata", "customer_id") if name in case.body}
    phone = f"+23480{next(caller.numbers):08d}"
    case.body = {**kept, "service_id": "mtn", "phone": phone, "amount": "50", "currency": "NGN"}


def _bundles(case: Case, caller: Caller) -> None:
    case.path_parameters["service_id"] = "mtn-data"
    case.query = {}


def _one_seller(case: Case, caller: Caller) -> None:
    case.query = {"category": "data", "provider": "vtpass"}


def _signed_webhook(case: Case, caller: Caller) -> None:
    case.path_parameters["provider"] = "paystack"
    case.headers["x-sign-me"] = "yes"


def _webhook_of_whoever_signed(case: Case, caller: Caller) -> None:
    case.headers["x-sign-me"] = "yes"


def _webhook_with_token(case: Case, caller: Caller) -> None:
    case.path_parameters |= {"provider": "lipa", "token": caller.take("callback_token")}


def _channel(caller: Caller) -> dict[str, Any]:
    return {"channel": f"user:{caller.merchant.id}"}


# Real things by the name of the path parameter …
PATHS: dict[str, Fill] = {
    "payment_id": _path("payment_id", "payment", "id"),
    "reference": _path("reference", "payment", "reference"),
    "withdrawal_id": _path("withdrawal_id", "withdrawal", "id"),
    "api_key_id": _path("api_key_id", "api_key"),
    "dead_letter_id": _path("dead_letter_id", "dead_letter"),
    "purchase_id": _path("purchase_id", "purchase", "id"),
}
# … and what single operations need beyond.
FILLS: dict[str, Fill] = {
    f"POST {API}/auth/register": _body(lambda caller: {"email": f"{uuid4().hex}@example.com"}),
    f"POST {API}/auth/login": _body(lambda caller: caller.credentials),
    f"POST {API}/auth/token": _body(
        lambda caller: {"username": caller.credentials["email"], "password": caller.credentials["password"]}
    ),
    f"POST {API}/auth/refresh": _body(lambda caller: {"refresh_token": caller.take("refresh_token")}),
    f"POST {API}/auth/logout": _body(lambda caller: {"refresh_token": caller.take("refresh_token")}),
    f"POST {API}/payments/initialize": _payment,
    f"POST {API}/payments/{{payment_id}}/cancel": _path("payment_id", "waiting_payment", "id"),
    f"POST {API}/payments/{{payment_id}}/resolve": _path("payment_id", "payment_under_review", "id"),
    f"POST {API}/payments/{{payment_id}}/submit-otp": _otp,
    f"POST {API}/payments/{{payment_id}}/refund": _some_money_back,
    f"GET {API}/payments/{{payment_id}}/refunds/{{refund_id}}": _refund("refund"),
    f"POST {API}/payments/{{payment_id}}/refunds/{{refund_id}}/resolve": _refund("refund_under_review"),
    f"POST {API}/wallet/withdraw": _withdrawal,
    f"POST {API}/wallet/withdrawals/{{withdrawal_id}}/cancel": _path(
        "withdrawal_id", "own_withdrawal_to_approve", "id"
    ),
    f"POST {API}/wallet/withdrawals/{{withdrawal_id}}/approve": _path("withdrawal_id", "withdrawal_to_approve", "id"),
    f"POST {API}/wallet/withdrawals/{{withdrawal_id}}/reject": _path("withdrawal_id", "withdrawal_to_reject", "id"),
    f"POST {API}/wallet/withdrawals/{{withdrawal_id}}/resolve": _path("withdrawal_id", "withdrawal_under_review", "id"),
    f"POST {API}/wallet/withdrawals/{{withdrawal_id}}/submit-otp": _transfer_otp,
    f"GET {API}/wallet/banks": _banks,
    f"POST {API}/wallet/resolve-account": _account,
    f"POST {API}/payments/initiate": _older_payment,
    f"POST {API}/payments/verify": _body(lambda caller: {"reference": caller.take("payment")["reference"]}),
    f"POST {API}/payments/submit_otp": _older_otp,
    f"GET {API}/wallet/statement": _statement,
    f"POST {API}/wallet/fund": _payment,
    f"POST {API}/wallet/flutterwave/fund": _older_funding,
    f"POST {API}/wallet/flutterwave/withdraw": _older_withdrawal,
    f"POST {API}/wallet/toggle-activity": _body(lambda caller: {"currency": "NGN"}),
    f"POST {API}/wallet/{{user_id}}/freeze": _freeze,
    f"POST {API}/providers/{{name}}/config": _configuration,
    f"DELETE {API}/providers/{{name}}/config/previous": _provider,
    f"POST {API}/providers/{{name}}/drain": _provider,
    f"GET {API}/airtime/services": _one_seller,
    f"GET {API}/airtime/services/{{service_id}}/variations": _bundles,
    f"POST {API}/airtime/purchase": _airtime,
    f"POST {API}/airtime/purchases/{{purchase_id}}/resolve": _path("purchase_id", "purchase_under_review", "id"),
    f"POST {API}/realtime/tickets": _body(_channel),
    f"POST {API}/webhooks/{{provider}}": _signed_webhook,
    f"POST {API}/webhooks/{{provider}}/{{token}}": _webhook_with_token,
    f"POST {API}/webhooks/payment": _webhook_of_whoever_signed,
}
