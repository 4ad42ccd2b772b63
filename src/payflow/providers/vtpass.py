"""VTPass in Nigeria: airtime and data bundles, bought from a prefunded wallet (https://www.vtpass.com/documentation).

- It collects nothing. What is bought is paid from the wallet that the merchant keeps there.
- `request_id` is the idempotency key and the name to ask by: twelve digits of the time in Lagos, then our reference. It
  is made of what was committed before the call, so that a question makes the same one. A date that is not today's is
  refused (085): an attempt made before midnight and sent after it bought nothing.
- Failures come as HTTP 200 with a code. Success is code 000 *and* status `delivered`, nothing else. What is not listed,
  an error of theirs, 429, HTML or silence may have bought: unknown, asked later, never sent again. So are 014 (our id is
  known: an earlier try may have gone through), 019 (the same was just bought, perhaps by us), 083, 089 and 044.
- At a question, a code that refuses (wrong key, invalid arguments) is about the question and says nothing of the purchase.
- `amount` is the face value; `total_amount` is that less the commission, and what the wallet pays. In the news of a
  reversal the outer `amount` is the net one. A bundle of a fixed price ignores the amount sent: the answer's face value
  is compared with ours, and the places that tell it must agree.
- Amounts are naira, a number or text ("50.00"). Names are misspelt: `varations`, `minimium_amount`, `convinience_fee`.
- A reversed purchase (040) is money back in the wallet: it has failed. A failed one was never charged, or goes back too.
- Lookups carry "000" in `response_description` and no `code`.
- GET wants the public key, POST the secret key; the other one is 087. Live keys need their addresses (027) and products
  (028) allowed by VTPass.
- Webhooks are unsigned, go to one address of the dashboard, and are sent again until the answer is exactly
  `{"response":"success"}`. A purchase delivered at once is not told at all. The query decides.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

from payflow.core.clock import Clock
from payflow.core.money import Money
from payflow.gateway.contract import (
    AirtimeService,
    AirtimeVariation,
    Declaration,
    Failure,
    LookupFailed,
    Operation,
    OrderNotAcceptable,
    ProviderEvent,
    PurchaseOrder,
    Query,
    Result,
    ServiceCategory,
    Trust,
    Verdict,
    WebhookMalformed,
    WebhookRequest,
)
from payflow.gateway.http import Answer, NotSent, OutcomeUnknown, ProviderHttp, Unreadable
from payflow.gateway.reading import INVALID, NO_ACCESS, SETUP, major_units, silence, told, word

NGN = "NGN"
LAGOS = timezone(timedelta(hours=1), "Africa/Lagos")  # without summer time
PHONE = re.compile(r"\+234([789][01][0-9]{8})")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a service or a variation
REQUEST_ID = re.compile(r"[0-9]{12}([A-Za-z0-9]{1,100})")
CODE = re.compile(r"[0-9]{3}")
STATUS = re.compile(r"[A-Za-z]{1,40}")
# These want an operator abroad, an account's name or a number of PINs, which an order does not hold.
NOT_BY_PHONE = {"foreign-airtime", "smile-direct", "spectranet"}

DECLARATION = Declaration(
    name="vtpass",
    path_name="vtpass",
    title="VTPass",
    currencies=frozenset({NGN}),
    countries=frozenset({"NG"}),
    methods=frozenset(),
    live_base_url="https://vtpass.com/api",
    session_life=timedelta(hours=24),  # nobody pays here: how long a purchase is asked about
    first_check_after=timedelta(seconds=30),
    min_check_interval=timedelta(seconds=10),
    webhook_answer=b'{"response":"success"}',
    refund_alternative="Delivered airtime and data cannot be given back; what was not delivered returns to the wallet by itself.",
)

NOT_DELIVERED = Failure("declined", "The network did not deliver. Nothing was bought.")
NO_SERVICE = Failure("unknown_service", "This service is not offered.")
NO_VARIATION = Failure("unknown_variation", "This bundle is not offered any more.")
TOO_SMALL = Failure("amount_too_small", "The amount is below what this service sells.")
TOO_LARGE = Failure("amount_too_large", "The amount is above what this service sells.")
NO_FUNDS = Failure("provider_unfunded", "This cannot be bought at the moment.")
UNAVAILABLE = Failure("service_unavailable", "The network cannot be reached at the moment. Please try again later.")

# `content.transactions.status` beside code 000.
STATUSES = {
    "initiated": Verdict.PROCESSING,
    "pending": Verdict.PROCESSING,
    "delivered": Verdict.COMPLETED,
    "failed": Verdict.DECLINED,
    "reversed": Verdict.DECLINED,
}
# The other codes that tell how a purchase stands, with the statuses that do not contradict them.
STANDINGS: dict[str, tuple[Verdict, frozenset[str]]] = {
    "099": (Verdict.PROCESSING, frozenset({"initiated", "pending"})),
    "016": (Verdict.DECLINED, frozenset({"failed", "reversed"})),
    "040": (Verdict.DECLINED, frozenset({"failed", "reversed"})),
    "091": (Verdict.DECLINED, frozenset({"failed", "reversed"})),  # not charged
}
# An order with one of these bought nothing.
REFUSALS = {
    "010": NO_VARIATION,
    "011": INVALID,
    "012": NO_SERVICE,
    "013": TOO_SMALL,
    "017": TOO_LARGE,
    "018": NO_FUNDS,
    "021": SETUP,
    "022": SETUP,
    "023": SETUP,
    "024": SETUP,
    "025": INVALID,
    "026": INVALID,
    "027": SETUP,
    "028": SETUP,
    "030": UNAVAILABLE,
    "031": TOO_SMALL,
    "032": TOO_LARGE,
    "034": UNAVAILABLE,
    "035": UNAVAILABLE,
    "085": INVALID,
    "087": NO_ACCESS,
    "091": NOT_DELIVERED,
}
NO_SUCH_SERVICE = {"010", "011", "012"}
UNREADABLE = (NotSent, OutcomeUnknown, Unreadable)


class VtpassCredentials(BaseModel):
    """The three keys of the dashboard; its "API authentication type" must allow keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    api_key: SecretStr
    public_key: SecretStr
    secret_key: SecretStr

    @field_validator("api_key")
    @classmethod
    def _api_key(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"(?!PK_|SK_)[!-~]+", value.get_secret_value()):
            raise ValueError("the static key, neither the public nor the secret one")
        return value

    @field_validator("public_key")
    @classmethod
    def _public_key(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"PK_[!-~]+", value.get_secret_value()):
            raise ValueError("a public key begins with PK_")
        return value

    @field_validator("secret_key")
    @classmethod
    def _secret_key(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"SK_[!-~]+", value.get_secret_value()):
            raise ValueError("a secret key begins with SK_")
        return value


class Vtpass:
    declaration: ClassVar[Declaration] = DECLARATION
    CredentialsModel: ClassVar[type[BaseModel]] = VtpassCredentials

    def __init__(self, http: ProviderHttp, base_url: str, clock: Clock) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")

    async def services(self, category: ServiceCategory, credentials: VtpassCredentials) -> Sequence[AirtimeService]:
        rows = await self._look_up("services", {"identifier": category.value}, credentials)
        if not isinstance(rows, list):
            raise LookupFailed
        found = (_service(row, category) for row in rows if isinstance(row, dict))
        return [service for service in found if service is not None]

    async def variations(self, service_id: str, credentials: VtpassCredentials) -> Sequence[AirtimeVariation]:
        content = await self._look_up("service-variations", {"serviceID": service_id}, credentials)
        rows = (content.get("variations") or content.get("varations")) if isinstance(content, dict) else None
        if rows is None:
            raise LookupFailed
        found = (_variation(row) for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()
        return [variation for variation in found if variation is not None]

    def check_purchase(self, order: PurchaseOrder) -> None:
        if order.amount.currency != NGN:
            raise OrderNotAcceptable("/currency", "VTPass sells in Nigerian naira (NGN) only.")
        if order.amount.minor <= 0:
            raise OrderNotAcceptable("/amount", "VTPass takes amounts above zero.")
        if not NAME.fullmatch(order.service_id) or order.service_id in NOT_BY_PHONE:
            raise OrderNotAcceptable("/service_id", "VTPass does not sell this service by phone number.")
        if order.variation_code is not None and not NAME.fullmatch(order.variation_code):
            raise OrderNotAcceptable("/variation_code", "VTPass has no such bundle.")
        if order.variation_code is None and order.service_id.endswith("-data"):
            raise OrderNotAcceptable("/variation_code", "Data is sold by bundle: name one.")
        if order.variation_code is None and order.amount.minor % 100:
            raise OrderNotAcceptable("/amount", "VTPass sells airtime in whole naira.")
        if _local(order.phone) is None:
            raise OrderNotAcceptable("/phone", "VTPass needs a Nigerian mobile number (+234…).")

    async def purchase(self, order: PurchaseOrder, credentials: VtpassCredentials) -> Result:
        request_id = _request_id(order.reference, order.created_at)
        try:
            answer = await self._post("purchase", "/pay", credentials, _order_body(order, request_id))
            return _answered(answer, request_id)
        except UNREADABLE as error:
            return silence(error)

    async def fetch_purchase(self, query: Query, credentials: VtpassCredentials) -> Result:
        """By the id that the order was sent with. A question that was refused says nothing of the purchase."""
        request_id = _request_id(query.reference, query.created_at)
        try:
            answer = await self._post("fetch", "/requery", credentials, {"request_id": request_id})
            return _requeried(answer, request_id)
        except UNREADABLE as error:
            return Result(Verdict.UNKNOWN, raw_status=str(error))

    def verify_webhook(self, request: WebhookRequest, credentials: Sequence[VtpassCredentials]) -> Trust:
        """VTPass signs nothing: all is a hint, and the query decides."""
        return Trust.CONFIRM

    def translate(self, request: WebhookRequest) -> Sequence[ProviderEvent]:
        try:
            body = _json(request.body)
        except Unreadable as error:
            raise WebhookMalformed(f"no readable VTPass webhook: {error}") from None
        kind = word(body.get("type"), 40) if isinstance(body, dict) else ""
        if not kind:
            raise WebhookMalformed("no type of a VTPass webhook")
        if kind != "transaction-update":  # such as variations-update: nothing is bought by it
            return [ProviderEvent(type=kind, trust=Trust.CONFIRM, operation=Operation.PURCHASE)]
        return [_event(kind, body.get("data"))]

    async def _look_up(self, path: str, parameters: dict[str, str], credentials: VtpassCredentials) -> Any:
        """The content of a lookup's answer. LookupFailed, with a failure where a listed code says why."""
        url = f"{self._base_url}/{path}?{urlencode(parameters)}"
        headers = _headers(credentials, "public-key", credentials.public_key)
        try:
            answer = await self._http.send(DECLARATION.name, path, "GET", url, headers=headers)
            body = _object(answer)
        except UNREADABLE:
            raise LookupFailed from None
        code = _code(body.get("code")) or _code(body.get("response_description"))
        if answer.status == 200 and code == "000":
            return body.get("content")
        listed = code in REFUSALS and _may_refuse(answer.status)
        failure = NO_SERVICE if "serviceID" in parameters and code in NO_SUCH_SERVICE else REFUSALS.get(code)
        raise LookupFailed(told(failure, code) if listed and failure else None)

    async def _post(self, operation: str, path: str, credentials: VtpassCredentials, body: dict[str, Any]) -> Answer:
        url, headers = self._base_url + path, _headers(credentials, "secret-key", credentials.secret_key)
        return await self._http.send(DECLARATION.name, operation, "POST", url, headers=headers, json=body)


def _headers(credentials: VtpassCredentials, name: str, key: SecretStr) -> dict[str, str]:
    return {"api-key": credentials.api_key.get_secret_value(), name: key.get_secret_value()}


def _request_id(reference: str, created_at: datetime) -> str:
    return f"{created_at.astimezone(LAGOS):%Y%m%d%H%M}{reference}"


def _our_reference(request_id: str) -> str | None:
    found = REQUEST_ID.fullmatch(request_id)
    return found[1] if found else None


def _local(phone: str) -> str | None:
    """Eleven digits, as VTPass wants them."""
    found = PHONE.fullmatch(phone)
    return "0" + found[1] if found else None


def _order_body(order: PurchaseOrder, request_id: str) -> dict[str, Any]:
    phone = _local(order.phone) or ""
    whole = order.amount.minor % 100 == 0
    body: dict[str, Any] = {
        "request_id": request_id,
        "serviceID": order.service_id,
        "amount": order.amount.minor // 100 if whole else order.amount.decimal_text(),
        "phone": phone,
    }
    if order.variation_code is not None:
        body |= {"billersCode": phone, "variation_code": order.variation_code}
    return body


def _answered(answer: Answer, request_id: str) -> Result:
    """The answer to an order. Only a listed code is a refusal, and only where no transaction stands beside it."""
    envelope = _object(answer)
    code, status = _code(envelope.get("code")), _status(envelope)
    if code in REFUSALS and status is None and _may_refuse(answer.status) and _about(envelope, request_id):
        return Result(Verdict.REFUSED, raw_status=code, failure=told(REFUSALS[code], code))
    return _read(answer.status, envelope, request_id)


def _requeried(answer: Answer, request_id: str) -> Result:
    """The answer to a question. `015`, not known, is no proof: it may be on its way, or the keys those of another account."""
    envelope = _unwrapped(_object(answer))
    code, status = _code(envelope.get("code")), _status(envelope)
    if answer.status == 200 and status is None and code == "015" and _about(envelope, request_id):
        return Result(Verdict.NOT_FOUND, raw_status=code)
    return _read(answer.status, envelope, request_id)


def _read(http_status: int, envelope: Mapping[str, Any], request_id: str) -> Result:
    verdict = _standing(envelope) if http_status == 200 and _about(envelope, request_id) else Verdict.UNKNOWN
    if verdict is Verdict.UNKNOWN:
        prefix = "" if http_status == 200 else f"HTTP {http_status} "
        return Result(Verdict.UNKNOWN, raw_status=f"{prefix}{_raw(envelope)}".strip())
    return _result(verdict, envelope, request_id, _face_value(envelope) if verdict is Verdict.COMPLETED else None)


def _result(verdict: Verdict, envelope: Mapping[str, Any], request_id: str, requested: Money | None = None) -> Result:
    told_id = _told_id(envelope)
    own = _identity(_transaction(envelope).get("transactionId") or envelope.get("transactionId"))
    return Result(
        verdict,
        raw_status=_raw(envelope),
        reference=_our_reference(told_id) if told_id else None,
        provider_references=(request_id, own) if own else (request_id,),
        receipt=own if verdict is Verdict.COMPLETED else None,
        requested=requested,
        failure=told(NOT_DELIVERED, _code(envelope.get("code"))) if verdict is Verdict.DECLINED else None,
    )


def _standing(envelope: Mapping[str, Any]) -> Verdict:
    """How a purchase stands by code and status together; code 000 alone is only accepted."""
    code, status = _code(envelope.get("code")), _status(envelope)
    if code == "000":
        return Verdict.PROCESSING if status is None else STATUSES.get(status, Verdict.UNKNOWN)
    verdict, fitting = STANDINGS.get(code, (Verdict.UNKNOWN, frozenset()))
    return verdict if status is None or status in fitting else Verdict.UNKNOWN


def _face_value(envelope: Mapping[str, Any]) -> Money:
    """What was bought, before the commission. Unreadable where it is not told, or told differently in two places."""
    places = (_transaction(envelope).get("amount"), envelope.get("amount"))
    values = {major_units(value, NGN) for value in places if value is not None}
    if len(values) != 1:
        raise Unreadable("a delivered purchase without one face value")
    return values.pop()


def _event(kind: str, data: Any) -> ProviderEvent:
    if not isinstance(data, dict):
        raise WebhookMalformed("a VTPass webhook without its data")
    request_id = _told_id(data)
    if not request_id:
        raise WebhookMalformed("a VTPass webhook without a requestId")
    try:
        result = _read(200, data, request_id)
    except Unreadable as error:
        result = Result(Verdict.UNKNOWN, raw_status=str(error))
    reference = _our_reference(request_id)
    return ProviderEvent(
        type=kind,
        trust=Trust.CONFIRM,
        operation=Operation.PURCHASE,
        references=(reference,) if reference else (),
        provider_references=result.provider_references or (request_id,),
        result=result,
    )


def _service(row: Mapping[str, Any], category: ServiceCategory) -> AirtimeService | None:
    identity, name = word(row.get("serviceID"), 100), word(row.get("name"))
    if not NAME.fullmatch(identity) or not name or identity.lower() in NOT_BY_PHONE:
        return None
    smallest = row.get("minimium_amount", row.get("minimum_amount"))
    return AirtimeService(identity, name, category, NGN, _limit(smallest), _limit(row.get("maximum_amount")))


def _variation(row: Mapping[str, Any]) -> AirtimeVariation | None:
    """A bundle; what has no fixed price is none."""
    code, name = word(row.get("variation_code"), 100), word(row.get("name"))
    price = _limit(row.get("variation_amount"))
    fixed = word(row.get("fixedPrice", "Yes")).lower() == "yes"
    if not NAME.fullmatch(code) or not name or price is None or not fixed:
        return None
    return AirtimeVariation(code, name, price)


def _limit(value: Any) -> Money | None:
    try:
        return major_units(value, NGN)
    except Unreadable:
        return None


def _unwrapped(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Older answers to a question wrap the purchase in code 001."""
    content = body.get("content")
    if _code(body.get("code")) != "001" or not isinstance(content, dict) or "response_code" not in content:
        return body
    return {**content, "code": content["response_code"]}


def _transaction(envelope: Mapping[str, Any]) -> Mapping[str, Any]:
    content = envelope.get("content", envelope)
    transaction = content.get("transactions") if isinstance(content, dict) else None
    return transaction if isinstance(transaction, dict) else {}


def _status(envelope: Mapping[str, Any]) -> str | None:
    """In lower case; None where none is told, and nothing where it cannot be read."""
    value = _transaction(envelope).get("status")
    if value is None:
        return None
    return value.lower() if isinstance(value, str) and STATUS.fullmatch(value) else ""


def _code(value: Any) -> str:
    return value if isinstance(value, str) and CODE.fullmatch(value) else ""


def _raw(envelope: Mapping[str, Any]) -> str:
    """Code and status only: a description may repeat anything."""
    return f"{_code(envelope.get('code'))} {_status(envelope) or ''}".strip()


def _told_id(envelope: Mapping[str, Any]) -> str:
    return word(envelope.get("requestId"), 120)


def _about(envelope: Mapping[str, Any], request_id: str) -> bool:
    """An answer may leave our id out, but must not name another."""
    return envelope.get("requestId") in (None, request_id)


def _identity(value: Any) -> str:
    return str(value) if type(value) is int and value > 0 else word(value, 100)


def _may_refuse(http_status: int) -> bool:
    """Business errors are HTTP 200, others may be 4xx with the same code. Nobody says what a 429 has done."""
    return http_status == 200 or (400 <= http_status < 500 and http_status not in (408, 429))


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise Unreadable(f"a body that is not JSON ({type(error).__name__})") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _object(answer: Answer) -> dict[str, Any]:
    """The body as an object, with Decimal for every fraction: `Answer.json_object` would make floats of them."""
    body = _json(answer.body)
    if not isinstance(body, dict):
        raise Unreadable(f"HTTP {answer.status} with a body that is not a JSON object")
    return body
