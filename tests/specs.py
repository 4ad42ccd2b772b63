"""Checks requests and answers against the providers' official OpenAPI documents.

    paystack = specs.paystack()
    specs.validate_request(paystack, "POST", "/transaction/initialize", "application/json", body={...})
    specs.validate_response(paystack, "GET", "/transaction/verify/abc", 200, {...})

The documents are read from the folder that `PAYFLOW_SPECS_DIR` names (`paystack/paystack-openapi.yaml`,
`stripe/spec3.2023-08-16.trimmed.json`, `stripe/fixtures3.2026.json`, and of `flutterwave` the files in
`FLUTTERWAVE_FILES`). A test that asks for one skips when the variable is unset, and fails when it is set and
the file is missing.

Stricter than OpenAPI itself: where a schema lists properties, an unlisted one is an error, so that a renamed field
cannot slip through as an addition. What must be let through nevertheless is written down below, each with its reason.
"""

import copy
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jsonschema
import pytest
import yaml
from jsonschema.validators import extend

Schema = dict[str, Any]
FORM = "application/x-www-form-urlencoded"
FREE: Schema = {}


class SpecViolation(AssertionError):
    """A request or an answer differs from the official document."""


@dataclass(frozen=True)
class Spec:
    name: str
    document: Schema
    # (METHOD, template, status) → schema, for answers that the document does not list but that were observed.
    unlisted_answers: Mapping[tuple[str, str, int], Schema] = field(default_factory=dict)


def specs_dir() -> Path:
    folder = os.environ.get("PAYFLOW_SPECS_DIR")
    if not folder:
        pytest.skip("PAYFLOW_SPECS_DIR is not set")
    return Path(folder)


def paystack() -> Spec:
    return load_paystack(specs_dir() / "paystack" / "paystack-openapi.yaml")


def stripe() -> Spec:
    folder = specs_dir() / "stripe"
    return load_stripe(folder / "spec3.2023-08-16.trimmed.json", folder / "fixtures3.2026.json")


def flutterwave() -> Spec:
    folder = specs_dir() / "flutterwave"
    return load_flutterwave(*(folder / f"{name}.yaml" for name in FLUTTERWAVE_FILES))


@cache
def load_flutterwave(*paths: Path) -> Spec:
    """An unofficial description of v3 in several files; there is no official one that covers it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = [yaml.load(path.read_text(encoding="utf-8"), Loader=loader) for path in paths]
    merged: Schema = {"paths": {}, "components": {"schemas": {}}}
    for document in documents:
        merged["paths"] |= document["paths"]
        merged["components"]["schemas"] |= document.get("components", {}).get("schemas", {})
    for path, names in FLUTTERWAVE_NEWER_PROPERTIES.items():
        order = merged["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        for name in names:
            order["properties"].setdefault(name, FREE)
    kinds = merged["paths"]["/charges"]["post"]["parameters"][0]["schema"]["enum"]
    kinds += FLUTTERWAVE_OFFICIAL_CHARGE_TYPES
    transfer = merged["paths"]["/transfers"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    transfer["properties"]["amount"]["type"] = "number"  # its own answers have decimals, as kobo have
    return Spec("flutterwave", merged)


@cache
def load_paystack(path: Path) -> Spec:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    for relax in PAYSTACK_EXCEPTIONS:
        relax(document["components"]["schemas"])
    allow_newer_paystack_requests(document)
    error = {"$ref": "#/components/schemas/Error"}
    unlisted = {
        # Observed on the real test API, where the document says 404 "Entity not found".
        ("GET", "/transaction/verify/{reference}", 400): error,
        ("GET", "/charge/{reference}", 400): error,
        # The document knows only 200 and 401 here; every call shares the error model.
        ("POST", "/refund", 400): error,
        ("POST", "/refund", 404): error,
        **{(method, path, status): error for status in (429, 500) for method, path in PAYSTACK_CALLS},
    }
    return Spec("paystack", document, unlisted)


@cache
def load_stripe(path: Path, fixtures: Path) -> Spec:
    document = json.loads(path.read_text(encoding="utf-8"))
    resources = json.loads(fixtures.read_text(encoding="utf-8"))["resources"]
    allow_newer_properties(document["components"]["schemas"], resources)
    allow_newer_parameters(document["paths"])
    return Spec("stripe", document)


# --- What is let through --------------------------------------------------------------------------------------------

PAYSTACK_CALLS = (
    ("POST", "/transaction/initialize"),
    ("GET", "/transaction/verify/{reference}"),
    ("GET", "/transaction"),
    ("GET", "/transaction/{id}"),
    ("GET", "/charge/{reference}"),
    ("POST", "/refund"),
    ("GET", "/refund"),
    ("GET", "/refund/{id}"),
)


def error_code_is_free_text(schemas: Schema) -> None:
    """`Error.code` carries the enum that belongs to `Error.type`; Paystack's own samples break it."""
    schemas["Error"]["properties"]["code"] = {"type": "string"}


def unpaid_transactions_have_no_payment_yet(schemas: Schema) -> None:
    """The samples behind these schemas were all paid; an unpaid transaction has no `paid_at`, `paidAt` and `fees`."""
    fetched = schemas["TransactionFetchResponse"]["properties"]["data"]["properties"]
    listed = schemas["TransactionListResponseArray"]["properties"]
    for schema in (fetched["paid_at"], fetched["paidAt"], fetched["fees"], listed["paidAt"]):
        schema["nullable"] = True
    fetched["authorization"].pop("required")


def customers_need_not_have_a_name(schemas: Schema) -> None:
    """Verify and list declare these nullable, fetch shows the one customer of its sample."""
    customer = schemas["TransactionFetchResponse"]["properties"]["data"]["properties"]["customer"]["properties"]
    for name in ("first_name", "last_name", "phone", "metadata", "international_format_phone"):
        customer[name]["nullable"] = True


def metadata_is_the_merchants_own(schemas: Schema) -> None:
    """What was sent comes back: any object, or text; only the sample of fetch has `custom_fields`."""
    schemas["TransactionFetchResponse"]["properties"]["data"]["properties"]["metadata"] = {}


# Of a direct charge, on the page "Payment Channels" (paystack.com/docs/payments/payment-channels), missing in the document.
PAYSTACK_NEWER_CHARGE_PROPERTIES: Schema = {
    "currency": {"type": "string"},
    "bank_transfer": {"type": "object", "properties": {"account_expires_at": {"type": "string"}}},
    "qr": {"type": "object", "properties": {"provider": {"type": "string"}}},
}


def allow_newer_paystack_requests(document: Schema) -> None:
    schemas = document["components"]["schemas"]
    schemas["ChargeCreate"]["properties"].update(PAYSTACK_NEWER_CHARGE_PROPERTIES)
    # The document's own `GET /bank` knows Kenya's kepss; the recipient's list of types was not brought up to date.
    schemas["TransferRecipientCreate"]["properties"]["type"]["enum"].append("kepss")
    # On the page "Refunds" of the API reference: refunds are listed by their transaction.
    transaction = {"in": "query", "name": "transaction", "schema": {"type": "string"}}
    document["paths"]["/refund"]["get"]["parameters"].append(transaction)


PAYSTACK_EXCEPTIONS: tuple[Callable[[Schema], None], ...] = (
    error_code_is_free_text,
    unpaid_transactions_have_no_payment_yet,
    customers_need_not_have_a_name,
    metadata_is_the_merchants_own,
)

FLUTTERWAVE_FILES = ("transactions", "checkout", "charge", "transfer", "verification")
# Missing in the description, and documented: on the page of "Standard"
# (developer.flutterwave.com/v3.0/docs/flutterwave-standard-1), and on those of each direct charge (…/docs/bank-transfer,
# …/docs/mobile-money and its countries).
FLUTTERWAVE_NEWER_PROPERTIES = {
    "/payments": ("meta", "configurations", "payment_options"),
    "/charges": ("meta", "expires", "order_id", "country"),
}
# As the official library (Flutterwave/Node-v3) calls them; the description has `account` and `…francophone` instead.
FLUTTERWAVE_OFFICIAL_CHARGE_TYPES = ["debit_ng_account", "mobile_money_franco"]

# Stripe's document is of 2023. Properties that the official fixtures of 2026 show for the same object are taken as they
# come; the few that neither has are named here with the place where they are documented.
STRIPE_RESOURCES = ("payment_intent", "charge", "checkout.session", "refund", "dispute", "event", "balance")
STRIPE_NEWER_PROPERTIES = {
    "payment_pages_checkout_session_automatic_tax": ("liability", "provider"),  # in the 2026 session fixture
    "payment_pages_checkout_session_custom_text": ("after_submit", "terms_of_service_acceptance"),  # likewise
    "payment_flows_automatic_payment_methods_payment_intent": ("allow_redirects",),  # 2023-08-16 itself
}
# Parameters newer than the document; their schema is free. Source: the changelog of the official library.
STRIPE_NEWER_PARAMETERS = {
    "/v1/payment_intents": (
        "allowed_payment_method_types",
        "excluded_payment_method_types",
        "payment_method_configuration",
    ),
    "/v1/checkout/sessions": ("ui_mode", "excluded_payment_method_types", "payment_method_configuration"),
}


def allow_newer_properties(schemas: Schema, resources: Schema) -> None:
    for name in STRIPE_RESOURCES:
        known = schemas[name]["properties"]
        for added in set(resources[name]) - set(known):
            known[added] = FREE
    for name, added_names in STRIPE_NEWER_PROPERTIES.items():
        for added in added_names:
            schemas[name]["properties"].setdefault(added, FREE)
    # `automatic_async` came with 2023-10 and is the default since.
    schemas["payment_intent"]["properties"]["capture_method"]["enum"].append("automatic_async")


def allow_newer_parameters(paths: Schema) -> None:
    for path, names in STRIPE_NEWER_PARAMETERS.items():
        schema = paths[path]["post"]["requestBody"]["content"][FORM]["schema"]
        for name in names:
            schema["properties"].setdefault(name, FREE)
        for holder in (schema, *schema["properties"].values()):
            capture = holder.get("properties", {}).get("capture_method", {})
            if "enum" in capture and "automatic_async" not in capture["enum"]:
                capture["enum"].append("automatic_async")


# --- Requests and answers -------------------------------------------------------------------------------------------


def validate_request(
    spec: Spec,
    method: str,
    path: str,
    content_type: str | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    body: Any = None,
) -> None:
    """`params` is the query; `body` the parsed JSON, or the form: text, bytes or a mapping of bracketed names."""
    _, operation, shared = find(spec, method, path)
    check_query(spec, [*shared, *operation.get("parameters", [])], params or {})
    declared = resolve(spec, operation.get("requestBody", {}))
    contents = declared.get("content", {})
    if body is None or body in ("", b""):
        if declared.get("required") and any(media["schema"].get("required") for media in contents.values()):
            raise SpecViolation(f"{method} {path}: a body is required")
        return
    media = contents.get((content_type or "").partition(";")[0].strip().lower())
    if media is None:
        raise SpecViolation(f"{method} {path}: content type {content_type!r} is not one of {sorted(contents)}")
    if (content_type or "").startswith(FORM):
        body = read_form(spec, body, media["schema"])
    check(spec, media["schema"], body, f"{method} {path}")


def validate_response(spec: Spec, method: str, path: str, status: int, body: Any) -> None:
    """The status must be listed (a bare `default` does not count), and the body must fit its schema."""
    template, operation, _ = find(spec, method, path)
    unlisted = spec.unlisted_answers.get((method.upper(), template, status))
    if str(status) in operation["responses"]:
        answer = resolve(spec, operation["responses"][str(status)])
        schema = answer["content"]["application/json"]["schema"]
    elif unlisted is not None:
        schema = unlisted
    else:
        answer = resolve(spec, operation["responses"].get("default", {}))
        schema = answer.get("content", {}).get("application/json", {}).get("schema")
        if schema is None:
            raise SpecViolation(f"{method} {path}: status {status} is not documented")
    check(spec, schema, body, f"{method} {path} → {status}")


def validate_object(spec: Spec, name: str, value: Any) -> None:
    """One object against the schema of that name, for example the `data.object` of an event."""
    check(spec, {"$ref": f"#/components/schemas/{name}"}, value, name)


def find(spec: Spec, method: str, path: str) -> tuple[str, Schema, list[Schema]]:
    """A literal template goes before one with parameters, as `/refund/retry` before `/refund/{id}`."""
    matches = [template for template in spec.document["paths"] if re.fullmatch(as_pattern(template), path)]
    for template in sorted(matches, key=lambda item: item.count("{")):
        item = spec.document["paths"][template]
        if method.lower() in item:
            return template, item[method.lower()], item.get("parameters", [])
    raise SpecViolation(f"{method} {path} is not in the {spec.name} document")


def as_pattern(template: str) -> str:
    return "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{[^}]+\})", template))


def resolve(spec: Spec, node: Schema) -> Schema:
    while "$ref" in node:
        target: Any = spec.document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        node = target
    return node


def check_query(spec: Spec, parameters: list[Schema], params: Mapping[str, Any]) -> None:
    known = {item["name"]: item for item in (resolve(spec, item) for item in parameters) if item["in"] == "query"}
    for name in params:
        if name.partition("[")[0] not in known:
            raise SpecViolation(f"query parameter {name!r} is not in the {spec.name} document")
    for name, item in known.items():
        if name in params:
            check(spec, item["schema"], coerce(spec, params[name], item["schema"]), f"query parameter {name!r}")
        elif item.get("required"):
            raise SpecViolation(f"query parameter {name!r} is required")


def check(spec: Spec, schema: Schema, value: Any, where: str) -> None:
    errors = list(validator(spec, schema).iter_errors(value))
    if errors:
        raise SpecViolation("\n".join(f"{where}: {line}" for error in errors for line in describe(error)))


def describe(error: jsonschema.ValidationError, depth: int = 0) -> Iterator[str]:
    yield f"{'  ' * depth}{error.json_path}: {error.message[:300]}"
    for inner in error.context or ():
        yield from describe(inner, depth + 1)


# --- OpenAPI 3.0 as a JSON Schema dialect ---------------------------------------------------------------------------


def validator(spec: Spec, schema: Schema) -> Any:
    return OpenApiValidator({**schema, "components": spec.document["components"]})


def nullable(keyword: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(validator: Any, expected: Any, instance: Any, schema: Schema) -> Iterator[Any]:
        if instance is None and schema.get("nullable"):
            return
        yield from keyword(validator, expected, instance, schema) or ()

    return wrapped


def known_properties_only(validator: Any, properties: Schema, instance: Any, schema: Schema) -> Iterator[Any]:
    yield from DRAFT["properties"](validator, properties, instance, schema) or ()
    listed_only = schema.get("additionalProperties") in (None, False)
    if not isinstance(instance, dict) or not properties or not listed_only:
        return
    if unknown := sorted(set(instance) - set(properties)):
        yield jsonschema.ValidationError(f"unlisted properties {unknown}, listed are {sorted(properties)}")


def all_of_as_one(validator: Any, branches: list[Schema], instance: Any, schema: Schema) -> Iterator[Any]:
    """Branches that list properties are merged first: each alone would call the others' properties unlisted."""
    merged: Schema = {"properties": {}, "required": []}
    for branch in branches:
        if "$ref" in branch:
            branch = validator._resolver.lookup(branch["$ref"]).contents
        merged["properties"] |= branch.get("properties", {})
        merged["required"] += branch.get("required", [])
        rest = {key: value for key, value in branch.items() if key not in ("properties", "required")}
        yield from validator.descend(instance, rest)
    yield from validator.descend(instance, merged)


DRAFT = jsonschema.Draft4Validator.VALIDATORS
OpenApiValidator = extend(
    jsonschema.Draft4Validator,
    {
        **{name: nullable(DRAFT[name]) for name in ("type", "enum", "anyOf", "oneOf", "required")},
        "properties": nullable(known_properties_only),
        "allOf": nullable(all_of_as_one),
        "$ref": DRAFT["$ref"],
    },
)


# --- Forms ----------------------------------------------------------------------------------------------------------


def read_form(spec: Spec, body: Any, schema: Schema) -> Any:
    """Brackets become nesting; text becomes the type that the schema expects at its place, if it can be read as one."""
    if isinstance(body, bytes):
        body = body.decode()
    pairs = parse_qsl(body, keep_blank_values=True) if isinstance(body, str) else list(body.items())
    tree: dict[str, Any] = {}
    for name, value in pairs:
        keys = [name.partition("[")[0], *re.findall(r"\[([^\[\]]*)\]", name)]
        node = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1] or str(len(node))] = value
    return coerce(spec, tree, schema)


def coerce(spec: Spec, value: Any, schema: Schema) -> Any:
    schema = resolve(spec, schema)
    for keyword in ("anyOf", "oneOf"):
        for option in schema.get(keyword, ()):
            candidate = coerce(spec, copy.deepcopy(value), option)
            if validator(spec, option).is_valid(candidate):
                return candidate
    if isinstance(value, dict):
        if schema.get("type") == "array":
            return [coerce(spec, value[key], schema.get("items", {})) for key in sorted(value, key=int)]
        properties, other = schema.get("properties", {}), schema.get("additionalProperties", {})
        other = other if isinstance(other, dict) else {}
        return {key: coerce(spec, item, properties.get(key, other)) for key, item in value.items()}
    if isinstance(value, str):
        return read_scalar(value, schema.get("type"))
    return value


def read_scalar(text: str, kind: str | None) -> Any:
    if kind == "integer" and re.fullmatch(r"-?\d+", text):
        return int(text)
    if kind == "number" and re.fullmatch(r"-?\d+(\.\d+)?", text):
        return float(text)
    if kind == "boolean" and text in ("true", "false"):
        return text == "true"
    return text
