"""Example Pay: a pattern to start from. Replace it, table by table, with what the provider's documentation says.

Name here where that documentation lies, and every quirk, one line each: whoever debugs at night reads this.

- Amounts are whole minor units. A charge is asked for by our own reference, so a lost answer can be asked after.
- Webhooks go to each order's own URL and carry `X-Signature`: the hex HMAC-SHA-256 of the raw body.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import quote

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from payflow.core.clock import Clock
from payflow.gateway.contract import (
    ActionType,
    CollectOrder,
    Declaration,
    NextAction,
    OrderNotAcceptable,
    ProviderEvent,
    Query,
    Result,
    Trust,
    Verdict,
    WebhookMalformed,
    WebhookRequest,
)
from payflow.gateway.http import Answer, NotSent, OutcomeUnknown, ProviderHttp, Unreadable
from payflow.gateway.reading import (
    DECLINED,
    INVALID,
    NO_ACCESS,
    minor_units,
    object_or_nothing,
    silence,
    told,
    web_address,
    word,
)
from payflow.gateway.signing import verify_hmac_hex

DECLARATION = Declaration(
    name="example_pay",
    path_name="examplepay",
    title="Example Pay",
    currencies=frozenset({"NGN", "KES"}),
    countries=frozenset({"NG", "KE"}),
    methods=frozenset({"card"}),
    # RFC 6761 promises that this name never resolves: until the real address stands here, nothing is sent.
    live_base_url="https://examplepay.invalid",
    session_life=timedelta(hours=1),
    simulated=True,  # until it speaks an API that somebody documents
)

STATUSES = {
    "pending": Verdict.REQUIRES_ACTION,
    "paid": Verdict.COMPLETED,
    "failed": Verdict.DECLINED,
}
# By HTTP status and the answer's `error`: nothing was opened, another provider may be asked. Whatever is not here is unknown.
REFUSALS = {
    (400, "invalid_request"): INVALID,
    (401, "invalid_key"): NO_ACCESS,
}
NOT_FOUND = (404, "not_found")


class ExamplePayCredentials(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    secret_key: SecretStr = Field(min_length=16)
    webhook_secret: SecretStr = Field(min_length=16)


class ExamplePay:
    declaration: ClassVar[Declaration] = DECLARATION
    CredentialsModel: ClassVar[type[BaseModel]] = ExamplePayCredentials

    def __init__(self, http: ProviderHttp, base_url: str, clock: Clock) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")

    def check(self, order: CollectOrder) -> None:
        if order.amount.currency not in DECLARATION.currencies:
            raise OrderNotAcceptable("/currency", f"Example Pay does not take {order.amount.currency}.")
        if not order.customer.email:
            raise OrderNotAcceptable("/customer/email", "Example Pay requires the customer's email address.")

    async def collect(self, order: CollectOrder, credentials: ExamplePayCredentials) -> Result:
        try:
            return _accepted(await self._send("collect", "POST", "/charges", credentials, _order_body(order)))
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return silence(error)

    async def fetch(self, query: Query, credentials: ExamplePayCredentials) -> Result:
        """A query that was not sent, or was refused, says nothing of the payment: it is unknown as well."""
        try:
            path = f"/charges/{quote(query.reference, safe='')}"
            return _fetched(await self._send("fetch", "GET", path, credentials))
        except (NotSent, OutcomeUnknown, Unreadable) as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    def verify_webhook(self, request: WebhookRequest, credentials: Sequence[ExamplePayCredentials]) -> None:
        secrets = [item.webhook_secret.get_secret_value() for item in credentials]
        verify_hmac_hex(request.headers.get("x-signature"), request.body, secrets, "sha256")

    def translate(self, request: WebhookRequest) -> Sequence[ProviderEvent]:
        try:
            return [_event(orjson.loads(request.body))]
        except (orjson.JSONDecodeError, Unreadable) as error:
            raise WebhookMalformed(f"no readable event: {error}") from None

    async def _send(
        self, operation: str, method: str, path: str, credentials: ExamplePayCredentials, body: Any = None
    ) -> Answer:
        headers = {"authorization": f"Bearer {credentials.secret_key.get_secret_value()}"}
        return await self._http.send(
            DECLARATION.name, operation, method, self._base_url + path, headers=headers, json=body
        )


def _order_body(order: CollectOrder) -> dict[str, Any]:
    return {
        "reference": order.reference,
        "amount": order.amount.to_provider(DECLARATION.exponents),
        "currency": order.amount.currency,
        "email": order.customer.email,
        "webhook_url": order.callback_url,
        "return_url": order.return_url or order.default_return_url,
    }


def _accepted(answer: Answer) -> Result:
    """The answer to an order."""
    if answer.status != 201:
        error = _error(answer)
        failure = REFUSALS.get((answer.status, error))
        verdict = Verdict.REFUSED if failure else Verdict.UNKNOWN
        raw_status = f"{answer.status} {error}".strip()
        return Result(verdict, raw_status=raw_status, failure=told(failure, error) if failure else None)
    body = answer.json_object()
    status, url, identity = word(body.get("status")), web_address(body.get("checkout_url")), word(body.get("id"))
    if status != "pending" or not (url and identity):
        return Result(Verdict.UNKNOWN, raw_status=f"201 {status}".strip())
    return Result(
        Verdict.REQUIRES_ACTION,
        raw_status=status,
        provider_references=(identity,),
        next_action=NextAction(ActionType.REDIRECT, url=url),
        checkout_url=url,
    )


def _fetched(answer: Answer) -> Result:
    """The answer to a question."""
    if answer.status == 200:
        return _charge(answer.json_object())
    error = _error(answer)
    verdict = Verdict.NOT_FOUND if (answer.status, error) == NOT_FOUND else Verdict.UNKNOWN
    return Result(verdict, raw_status=f"{answer.status} {error}".strip())


def _charge(fields: Mapping[str, Any]) -> Result:
    """A charge, from a query or an event. Unreadable where it does not say which one of how much it is."""
    status, reference, identity = (word(fields.get(name)) for name in ("status", "reference", "id"))
    if not (reference and identity):
        raise Unreadable("a charge without reference or id")
    verdict = STATUSES.get(status, Verdict.UNKNOWN)
    amount = minor_units(fields.get("amount"), fields.get("currency"), DECLARATION.exponents)
    return Result(
        verdict,
        raw_status=status,
        reference=reference,
        provider_references=(identity,),
        requested=amount,
        paid=amount if verdict is Verdict.COMPLETED else None,
        failure=told(DECLINED, status) if verdict is Verdict.DECLINED else None,
        # Only what proves that no money is there lets the payment expire.
        expirable=verdict in (Verdict.REQUIRES_ACTION, Verdict.DECLINED),
    )


def _event(body: Any) -> ProviderEvent:
    """An event of another type moves nothing."""
    fields = body if isinstance(body, dict) else {}
    event_id, kind, charge = word(fields.get("id")), word(fields.get("type")), fields.get("charge")
    if not (event_id and kind and isinstance(charge, dict)):
        raise Unreadable("an event without id, type or charge")
    result = _charge(charge)
    return ProviderEvent(
        type=kind,
        trust=Trust.SIGNED,
        dedupe_key=event_id,
        references=(result.reference,) if result.reference else (),
        provider_references=result.provider_references,
        result=result if kind == "charge.updated" else None,
    )


def _error(answer: Answer) -> str:
    """The answer's own word, only where it is listed: a message may repeat the key it refuses."""
    error = word(object_or_nothing(answer).get("error"))
    return error if any(error == known for _, known in (*REFUSALS, NOT_FOUND)) else ""
