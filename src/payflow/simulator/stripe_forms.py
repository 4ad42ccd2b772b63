"""Stripe's request bodies: form-encoded with brackets, and a parameter nobody knows is an error, at any depth."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from payflow.simulator.stripe_objects import CARDS

# What may be sent: a dict names the members, ANY takes whatever comes (its inside has no effect here), LIST_OF repeats.
ANY = object()


class ListOf:
    def __init__(self, item: Any) -> None:
        self.item = item


def anything(names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), ANY)


EXPAND = {"expand": ANY}
AUTOMATIC_METHODS = {"enabled": ANY, "allow_redirects": ANY}
INTENT_COMMON = {
    **anything(
        "allowed_payment_method_types capture_method error_on_requires_action excluded_payment_method_types "
        "mandate mandate_data off_session payment_method payment_method_data payment_method_options "
        "payment_method_types radar_options receipt_email return_url setup_future_usage shipping use_stripe_sdk "
        "confirmation_token"
    ),
    **EXPAND,
}
CREATE_INTENT = {
    **INTENT_COMMON,
    **anything(
        "amount amount_details application_fee_amount confirm confirmation_method currency customer "
        "customer_account description metadata on_behalf_of payment_method_configuration statement_descriptor "
        "statement_descriptor_suffix transfer_data transfer_group"
    ),
    "automatic_payment_methods": AUTOMATIC_METHODS,
}
CONFIRM_INTENT = {**INTENT_COMMON, "client_secret": ANY}
CANCEL_INTENT = {"cancellation_reason": ANY, **EXPAND}
CAPTURE_INTENT = anything(
    "amount_to_capture application_fee_amount final_capture metadata statement_descriptor "
    "statement_descriptor_suffix transfer_data expand"
)
LINE_ITEM = {
    "price": ANY,
    "price_data": {
        "currency": ANY,
        "product": ANY,
        "product_data": dict.fromkeys(("name", "description", "images", "metadata", "tax_code", "unit_label"), ANY),
        "tax_behavior": ANY,
        "unit_amount": ANY,
        "unit_amount_decimal": ANY,
        "recurring": ANY,
    },
    "quantity": ANY,
    "adjustable_quantity": ANY,
    "tax_rates": ANY,
    "dynamic_tax_rates": ANY,
    "metadata": ANY,
}
PAYMENT_INTENT_DATA = anything(
    "application_fee_amount capture_method description metadata on_behalf_of receipt_email setup_future_usage "
    "shipping statement_descriptor statement_descriptor_suffix transfer_data transfer_group"
)
CREATE_SESSION = {
    **anything(
        "adaptive_pricing after_expiration allow_promotion_codes automatic_tax billing_address_collection "
        "branding_settings cancel_url client_reference_id consent_collection currency custom_fields custom_text "
        "customer customer_account customer_creation customer_email customer_update discounts "
        "excluded_payment_method_types expires_at invoice_creation locale metadata mode name_collection "
        "optional_items origin_context payment_method_collection payment_method_configuration payment_method_data "
        "payment_method_options payment_method_types permissions phone_number_collection redirect_on_completion "
        "return_url saved_payment_method_options setup_intent_data shipping_address_collection shipping_options "
        "submit_type subscription_data success_url tax_id_collection ui_mode wallet_options expand"
    ),
    "line_items": ListOf(LINE_ITEM),
    "payment_intent_data": PAYMENT_INTENT_DATA,
}
EXPIRE_SESSION = EXPAND
CREATE_REFUND = anything(
    "amount charge currency customer instructions_email metadata origin payment_intent reason "
    "refund_application_fee reverse_transfer expand"
)
PAGING = dict.fromkeys(("limit", "starting_after", "ending_before", "created", "expand"), ANY)


MAX_AMOUNT = 99_999_999


class Invalid(Exception):
    """A request that is refused before anything is executed, so no idempotency key remembers it."""

    def __init__(self, message: str, code: str | None = None, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.code, self.param, self.status = message, code, param, status


def parse(text: str) -> dict[str, Any]:
    """`a[b][0][c]=1` becomes `{"a": {"b": [{"c": "1"}]}}`; every value stays text."""
    tree: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        keys = [name.partition("[")[0], *re.findall(r"\[([^\[\]]*)\]", name)]
        node = tree
        for key in keys[:-1]:
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                raise Invalid(f"Invalid object at {name}", param=name)
            node = child
        last = keys[-1] or str(len(node))
        if isinstance(node.get(last), dict):
            raise Invalid(f"Invalid object at {name}", param=name)
        node[last] = value
    return {key: with_lists(value) for key, value in tree.items()}


def with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: with_lists(item) for key, item in value.items()}
    if inner and all(key.isdecimal() for key in inner):
        return [inner[key] for key in sorted(inner, key=int)]
    return inner


def refuse_unknown(params: Any, known: Any, path: str = "") -> None:
    if isinstance(known, ListOf):
        if not isinstance(params, list):
            raise Invalid("Invalid array", param=path)
        for index, item in enumerate(params):
            refuse_unknown(item, known.item, f"{path}[{index}]")
    elif isinstance(known, Mapping):
        if not isinstance(params, Mapping):
            raise Invalid("Invalid object", param=path)
        for name, value in params.items():
            here = f"{path}[{name}]" if path else name
            if name not in known:
                raise Invalid(f"Received unknown parameter: {here}", "parameter_unknown", here)
            refuse_unknown(value, known[name], here)


def required(params: Mapping[str, Any], name: str) -> Any:
    value = params.get(name)
    if value in (None, ""):
        raise Invalid(f"Missing required param: {name}.", "parameter_missing", name)
    return value


def integer(value: Any, name: str, minimum: int = 1) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"-?\d{1,18}", value):
        raise Invalid(f"Invalid integer: {value}", "parameter_invalid_integer", name)
    number = int(value)
    if number < minimum:
        message = f"This value must be greater than or equal to {minimum}."
        raise Invalid(message, "parameter_invalid_integer", name)
    return number


def boolean(params: Mapping[str, Any], name: str) -> bool:
    value = params.get(name, "false")
    if value not in ("true", "false"):
        raise Invalid(f"Invalid boolean: {value}", None, name)
    return bool(value == "true")


def choice(params: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str | None = None) -> str | None:
    value = params.get(name) or default
    if value is not None and value not in choices:
        raise Invalid(f"Invalid {name}: must be one of {', '.join(choices)}", None, name)
    return value


def currency(value: Any, name: str = "currency") -> str:
    if not re.fullmatch(r"[A-Za-z]{3}", str(value)):
        raise Invalid(f"Invalid currency: {value}.", None, name)
    return str(value).lower()


def url(params: Mapping[str, Any], name: str) -> str | None:
    value = params.get(name) or None
    if value is not None and not str(value).startswith(("http://", "https://")):
        raise Invalid("Not a valid URL", "url_invalid", name)
    return value


def metadata(params: Mapping[str, Any], name: str = "metadata") -> dict[str, str]:
    given = params.get(name) or {}
    if isinstance(given, list):  # numbered keys are still keys here
        given = {str(index): value for index, value in enumerate(given)}
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise Invalid("Invalid metadata: must be a flat object", None, name)
    if len(given) > 50:
        raise Invalid("You can only have 50 metadata keys", None, name)
    for key, value in given.items():
        if len(key) > 40 or len(value) > 500:
            raise Invalid(f"Metadata {key!r} is too long", None, f"{name}[{key}]")
    return given


def no_such(kind: str, name: str, param: str, status: int = 404) -> Invalid:
    return Invalid(f"No such {kind}: '{name}'", "resource_missing", param, status)


def check_payment_method(params: Mapping[str, Any]) -> None:
    name = params.get("payment_method")
    if name and name not in CARDS:
        raise no_such("PaymentMethod", name, "payment_method", 400)


def read_amount(value: Any) -> int:
    amount = integer(value, "amount")
    if amount > MAX_AMOUNT:
        raise Invalid("Amount must be no more than 999,999.99", "amount_too_large", "amount")
    return amount


def read_line_items(params: Mapping[str, Any]) -> tuple[int, str]:
    """Total and currency; prices made on the fly are the only ones, as there is no catalogue here."""
    total, currencies = 0, set()
    required(params, "line_items")
    for index, item in enumerate(params["line_items"]):
        data, path = item.get("price_data"), f"line_items[{index}]"
        if not data:
            raise no_such("price", str(item.get("price")), f"{path}[price]", 400)
        product = data.get("product_data") or {}
        if not data.get("product") and not product.get("name"):
            raise Invalid("Missing required param: product_data[name].", "parameter_missing", f"{path}[price_data]")
        name = f"{path}[price_data][unit_amount]"
        unit = integer(required(data, "unit_amount"), name, 0)
        total += unit * integer(item.get("quantity") or "1", f"{path}[quantity]")
        currencies.add(currency(required(data, "currency"), f"{path}[price_data][currency]"))
    if len(currencies) != 1:
        raise Invalid("All prices on a Checkout Session must have the same currency.", None, "line_items")
    return read_amount(str(total)), currencies.pop()
