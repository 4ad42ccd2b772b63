"""The OpenAPI document is complete: whoever reads only that can use the API."""

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import schemathesis
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from payflow.main import TAGS
from payflow.transactions.lifecycle import LIFECYCLE, Kind
from payflow.transactions.move import EVENT_PREFIX
from tests.openapi.document import METHODS, document, examples, operations, resolve

PROBLEM = "application/problem+json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
LABELS = list(operations())

# Open to everybody, with or without a credential of its own kind in the body.
PUBLIC = {
    "GET /api/v1/health",
    "GET /api/v1/health/ready",
    "GET /api/v1/ping-rabbitmq",
    "POST /api/v1/auth/register",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/token",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/webhooks/payment",
    "POST /api/v1/webhooks/{provider}",
    "POST /api/v1/webhooks/{provider}/{token}",
}
PAYMENT_EVENTS = {
    f"payment.{name}"
    for name in (
        "initiated",
        "requires_action",
        "processing",
        "attempt_failed",
        "completed",
        "failed",
        "cancelled",
        "expired",
        "under_review",
        "duplicate_detected",
        "reversed",
    )
} | {"refund.processing", "refund.completed", "refund.failed", "refund.under_review"}
WITHDRAWAL_EVENTS = {
    f"withdrawal.{name}"
    for name in (
        "initiated",
        "approved",
        "requires_action",
        "processing",
        "attempt_failed",
        "completed",
        "failed",
        "cancelled",
        "under_review",
        "reversed",
    )
}
AIRTIME_EVENTS = {
    f"airtime.{name}"
    for name in ("initiated", "processing", "attempt_failed", "completed", "failed", "under_review", "reversed")
}
WALLET_EVENTS = {
    f"wallet.{name}" for name in ("held", "released", "debited", "credited", "frozen", "unfrozen", "inactive", "active")
}


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Of a schema of the document, which may refer to the components."""
    whole = {"$schema": DIALECT, "allOf": [schema], "components": document()["components"]}
    return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


def body_of(operation: dict[str, Any]) -> dict[str, Any]:
    return dict(operation.get("requestBody", {}).get("content", {}))


def is_webhook(operation: dict[str, Any]) -> bool:
    """Providers' webhooks are taken as raw bytes, whatever they hold."""
    return str(operation["operationId"]).startswith("receive_webhook")


def everything(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from everything(item)


def test_it_is_valid_openapi_3_1() -> None:
    assert document()["openapi"].startswith("3.1.")
    copy = deepcopy(document())
    # Its schema asks for an absolute address here, while its text lets every address be relative (section 4.6).
    flow = copy["components"]["securitySchemes"]["Password"]["flows"]["password"]
    flow["tokenUrl"] = "https://payflow.example" + flow["tokenUrl"]
    schemathesis.openapi.from_dict(copy).validate()


def test_every_schema_is_valid_json_schema() -> None:
    for schema in document()["components"]["schemas"].values():
        validator_for(schema, default=Draft202012Validator).check_schema(schema)


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    references = {part["$ref"] for part in everything(document()) if isinstance(part.get("$ref"), str)}
    for reference in references:
        assert resolve({"$ref": reference}) is not None

    assert {reference.rpartition("/")[2] for reference in references} == set(document()["components"]["schemas"])


def test_it_says_what_it_is() -> None:
    info = document()["info"]
    assert info["title"] == "PayFlow"
    assert info["summary"]
    assert "problem+json" in info["description"]
    assert info["license"] == {"name": "MIT", "identifier": "MIT"}
    assert all(tag["description"] for tag in document()["tags"])


def test_operation_ids_are_unique_and_fit_for_code() -> None:
    all_operations = [*operations().values(), *(event["post"] for event in document()["webhooks"].values())]
    ids = Counter(operation["operationId"] for operation in all_operations)

    assert [name for name, times in ids.items() if times > 1] == []
    assert [name for name in ids if not name.isidentifier() or "api_v1" in name] == []


@pytest.mark.parametrize("label", LABELS)
def test_an_operation_is_described(label: str) -> None:
    operation = operations()[label]
    known = {tag["name"] for tag in TAGS}

    assert operation["summary"]
    assert operation["description"]
    assert len(operation["tags"]) == 1
    assert operation["tags"][0] in known
    for parameter in operation.get("parameters", ()):
        assert parameter["schema"]
        names = ("{" + parameter["name"] + "}") in label
        assert names == (parameter["in"] == "path")


def test_every_tag_is_used() -> None:
    used = {operation["tags"][0] for operation in operations().values()}
    assert used == {tag["name"] for tag in TAGS}


@pytest.mark.parametrize("label", LABELS)
def test_an_operation_names_its_errors(label: str) -> None:
    operation = operations()[label]
    documented = {int(status) for status in operation["responses"]}
    expected: set[int] = set()
    if not label.startswith(("GET /api/v1/health", "GET /api/v1/ping-rabbitmq")):
        expected |= {429, 503}
    if label not in PUBLIC:
        expected |= {401}
    if body_of(operation):
        expected |= {413}
    if not is_webhook(operation):
        if body_of(operation):
            expected |= {400}
        if body_of(operation) or operation.get("parameters"):
            expected |= {422}
    if "{" in label:
        expected |= {404}

    assert expected <= documented


@pytest.mark.parametrize("label", LABELS)
def test_an_error_is_a_problem_with_an_example(label: str) -> None:
    for status, response in operations()[label]["responses"].items():
        if int(status) < 400:
            continue
        assert response["description"]
        assert list(response["content"]) == [PROBLEM], status
        shown = examples(response["content"][PROBLEM])
        assert shown, status
        assert {problem["status"] for problem in shown} == {int(status)}
        wanted = {401: {"WWW-Authenticate"}, 429: {"Retry-After", "RateLimit"}, 503: {"Retry-After"}}
        assert wanted.get(int(status), set()) <= set(response.get("headers", {}))


@pytest.mark.parametrize("label", LABELS)
def test_an_operation_shows_what_to_send_and_what_comes_back(label: str) -> None:
    operation = operations()[label]
    for kind, media in body_of(operation).items():
        assert examples(media), kind
    successes = [response for status, response in operation["responses"].items() if status.startswith("2")]
    assert successes
    for response in successes:
        assert response["description"]
        for kind, media in response.get("content", {}).items():
            assert examples(media), kind


@pytest.mark.parametrize("label", LABELS)
def test_what_an_operation_shows_is_valid(label: str) -> None:
    operation = operations()[label]
    responses = operation["responses"].values()
    for media in [*body_of(operation).values(), *(m for r in responses for m in r.get("content", {}).values())]:
        for example in examples(media):
            validator(media["schema"]).validate(example)
    for parameter in operation.get("parameters", ()):
        for example in examples(parameter):
            validator(parameter["schema"]).validate(example)


def test_what_the_schemas_show_is_valid() -> None:
    for name, schema in document()["components"]["schemas"].items():
        for example in examples({"schema": schema}):
            validator({"$ref": f"#/components/schemas/{name}"}).validate(example)
        for member in schema.get("properties", {}).values():
            for example in examples({"schema": member}):
                validator(member).validate(example)


def test_examples_read_in_the_order_of_their_schema() -> None:
    for schema in document()["components"]["schemas"].values():
        for example in examples({"schema": schema}):
            declared = [name for name in schema["properties"] if name in example]
            assert list(example)[: len(declared)] == declared


@pytest.mark.parametrize("label", LABELS)
def test_an_operation_says_which_credentials_it_takes(label: str) -> None:
    security = operations()[label].get("security", [])
    schemes = {name for alternative in security for name in alternative}

    assert schemes <= set(document()["components"]["securitySchemes"])
    assert bool(schemes) == (label not in PUBLIC)


def test_the_security_schemes_are_explained() -> None:
    schemes = document()["components"]["securitySchemes"]

    assert {name: scheme["type"] for name, scheme in schemes.items()} == {
        "Password": "oauth2",
        "AccessToken": "http",
        "ApiKey": "apiKey",
    }
    assert all(scheme["description"] for scheme in schemes.values())
    token_url = schemes["Password"]["flows"]["password"]["tokenUrl"]
    assert f"POST {token_url}" in operations()


def test_a_post_that_moves_money_takes_an_idempotency_key() -> None:
    keyed = {
        label
        for label, operation in operations().items()
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ()))
    }

    assert keyed >= {"POST /api/v1/payments/initialize", "POST /api/v1/payments/{payment_id}/resolve"}
    for label in keyed:
        assert {"400", "409", "422"} <= set(operations()[label]["responses"])


def test_each_event_of_money_is_a_webhook_with_an_example() -> None:
    webhooks = document()["webhooks"]

    assert set(webhooks) == PAYMENT_EVENTS | WITHDRAWAL_EVENTS | AIRTIME_EVENTS | WALLET_EVENTS
    for name, item in webhooks.items():
        assert set(item) & set(METHODS) == {"post"}
        event = item["post"]
        assert event["summary"] == name
        assert len(event["description"]) > 10
        media = event["requestBody"]["content"]["application/json"]
        (example,) = examples(media)
        assert example["type"] == name
        validator(media["schema"]).validate(example)
        assert list(event["responses"]) == ["200"]


def test_events_are_under_what_they_are_about() -> None:
    tags = {name: item["post"]["tags"] for name, item in document()["webhooks"].items()}

    assert {name for name, found in tags.items() if found == ["payments"]} == PAYMENT_EVENTS
    assert {name for name, found in tags.items() if found == ["wallet"]} == WITHDRAWAL_EVENTS | WALLET_EVENTS
    assert {name for name, found in tags.items() if found == ["airtime"]} == AIRTIME_EVENTS


@pytest.mark.parametrize("kind", Kind)
def test_every_status_that_a_transaction_can_get_has_its_event(kind: Kind) -> None:
    # Refunds tell of theirs; no adapter asks for a code, or cancels, when airtime is bought.
    silent = {"payment.partially_refunded", "payment.refunded", "airtime.requires_action", "airtime.cancelled"}
    reached = {status for targets in LIFECYCLE[kind].values() for status in targets}

    assert {f"{EVENT_PREFIX[kind]}.{status}" for status in reached} - silent <= set(document()["webhooks"])


def test_amounts_are_text_or_exact_numbers_in_what_is_sent() -> None:
    amount = resolve({"$ref": "#/components/schemas/InitializePayment"})["properties"]["amount"]
    valid = validator(amount).is_valid

    assert valid("5000.00")
    assert valid(5000)
    assert not valid("-1")
    assert not valid("0.00")
    assert not valid("5e3")
    assert not valid(0)
