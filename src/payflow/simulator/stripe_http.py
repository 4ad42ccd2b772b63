"""What every Stripe call goes through: key, form, unknown parameters, idempotency store, and the answer's fate.

Idempotency as documented: the first executed answer is kept and replayed, also a 500 or a decline; what is refused
before execution is not kept.
"""

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator import stripe_forms as forms
from payflow.simulator.outcomes import OUTCOMES, Decision
from payflow.simulator.state import Charge, Provider, Simulation, html_error, reply
from payflow.simulator.stripe_forms import Invalid
from payflow.simulator.stripe_objects import new_id

NORMAL = Decision(OUTCOMES["success"])
KEY_LIFE_SECONDS = 24 * 3600
REFERENCE_KEYS = ("reference", "attempt_reference", "payment_reference", "attempt_id", "payment_id")


@dataclass
class Call:
    params: dict[str, Any]
    request_id: str
    key: str | None
    path: dict[str, str]

    @property
    def cause(self) -> dict[str, Any]:
        return {"id": self.request_id, "idempotency_key": self.key}


@dataclass
class Executed:
    response: Response
    decision: Decision = NORMAL
    charge: Charge | None = None  # a charge whose customer has yet to act


@dataclass
class Kept:
    fingerprint: tuple[str, str, bytes]
    at: float
    response: Response | None = None  # None: still in flight


Handler = Callable[[Call], Executed]


class Gateway:
    def __init__(self, simulation: Simulation, provider: Provider) -> None:
        self.simulation = simulation
        self.provider = provider
        self.keys: dict[str, Kept] = {}

    def call(self, handler: Handler, known: Any) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            request_id = new_id("req", 14)
            try:
                response = await self.serve(request, request_id, handler, known)
            except Invalid as refused:
                response = invalid_request(refused)
            response.headers["Request-Id"] = request_id
            version = request.headers.get("stripe-version", self.simulation.settings.stripe_api_version)
            response.headers["Stripe-Version"] = version
            if key := request.headers.get("idempotency-key"):
                response.headers["Idempotency-Key"] = key
            return response

        return endpoint

    async def serve(self, request: Request, request_id: str, handler: Handler, known: Any) -> Response:
        self.authenticate(request)
        body = await request.body()
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        params = self.read(request, body)
        kept = self.keep(key, request, body) if key else None
        if kept is not None and kept.response is not None:
            self.count_replay(params, key)
            return again(kept.response, {"Idempotent-Replayed": "true"})
        try:
            forms.refuse_unknown(params, known)
            path = {**request.path_params, "method": request.method, "url": request.url.path}
            executed = handler(Call(params, request_id, key, path))
            return await self.deliver(request, executed, kept)
        finally:
            if key and kept is not None and kept.response is None:
                self.keys.pop(key, None)  # refused before execution, or dropped by the limiter: nothing to remember

    def read(self, request: Request, body: bytes) -> dict[str, Any]:
        if request.method == "GET":
            self.refuse_query_if_told()
            return forms.parse(request.url.query)
        if request.headers.get("content-type", "").startswith("application/json"):
            raise Invalid("Invalid request: the v1 API takes form-encoded bodies, not JSON.")
        try:
            return forms.parse(body.decode())
        except UnicodeDecodeError:
            raise Invalid("Invalid request: the body is not UTF-8.") from None

    def keep(self, key: str, request: Request, body: bytes) -> Kept:
        if len(key) > 255:
            raise Invalid("Idempotency keys are at most 255 characters long.")
        now = self.simulation.clock()
        fingerprint = (request.method, request.url.path, body)
        kept = self.keys.get(key)
        if kept is None or kept.at < now - KEY_LIFE_SECONDS:
            kept = self.keys[key] = Kept(fingerprint, now)
            return kept
        if kept.fingerprint != fingerprint:
            message = (
                "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                f"Try using a key other than '{key}' if you meant to execute a different request."
            )
            raise Invalid(message, "idempotency_error")
        if kept.response is None:
            message = f"There is currently another in-progress request using this Idempotency Key ({key})."
            raise Invalid(message, "idempotency_key_in_use", status=409)
        return kept

    def count_replay(self, params: dict[str, Any], key: str | None) -> None:
        reference = reference_of(params) or key
        if reference and ("stripe", reference) in self.simulation.journal.submissions:
            first = self.simulation.journal.submissions["stripe", reference][0]
            self.simulation.journal.submit(
                "stripe", reference, first.amount, first.currency, first.outcome, "replayed", first.operation
            )

    async def deliver(self, request: Request, executed: Executed, kept: Kept | None) -> Response:
        """An answer that gets lost on the way is remembered under its key all the same."""
        simulation, lost = self.simulation, executed.decision.outcome.answer in ("hang", "drop")
        if kept is not None and lost:
            kept.response = again(executed.response)
        if executed.charge is not None:
            final = await simulation.answer(request, self.provider, executed.charge, lambda: executed.response, failure)
        else:
            final = await simulation.deliver_answer(request, executed.decision, executed.response, failure)
        if kept is not None and not lost and final.status_code not in (429, 502):
            kept.response = again(final)
        return final

    def authenticate(self, request: Request) -> None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        key = value.strip()
        if scheme.lower() == "basic":
            try:
                key = base64.b64decode(key, validate=True).decode().partition(":")[0]
            except (binascii.Error, ValueError):
                key = ""
        if not key:
            raise Invalid("You did not provide an API key.", status=401)
        if key == self.simulation.settings.stripe_secret_key:
            return
        if not (self.simulation.behaviour.accept_any_test_key and re.fullmatch(r"[sr]k_test_\w+", key)):
            raise Invalid(f"Invalid API Key provided: {key[:8]}****{key[-4:]}", status=401)

    def refuse_query_if_told(self, charge: Charge | None = None) -> None:
        if not self.simulation.behaviour.answer_queries or (charge and not charge.outcome.queries):
            raise Invalid("An unknown error occurred", status=500)


def reference_of(params: Mapping[str, Any]) -> str | None:
    """The merchant's own name for the payment, by which the journal counts."""
    metadata = params.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    named = params.get("client_reference_id") or next((known[name] for name in REFERENCE_KEYS if known.get(name)), None)
    return str(named) if named else None


def again(response: Response, headers: dict[str, str] | None = None) -> Response:
    return Response(bytes(response.body), response.status_code, headers, media_type="application/json")


def invalid_request(refused: Invalid) -> Response:
    error: dict[str, Any] = {"message": refused.message, "type": "invalid_request_error"}
    if refused.status >= 500:
        error["type"] = "api_error"
    if refused.code == "idempotency_error":
        error["type"] = refused.code
    elif refused.code is not None:
        slug = refused.code.replace("_", "-")
        error |= {"code": refused.code, "doc_url": f"https://stripe.com/docs/error-codes/{slug}"}
    if refused.param is not None:
        error["param"] = refused.param
    headers = {"WWW-Authenticate": 'Basic realm="Stripe"'} if refused.status == 401 else None
    return reply({"error": error}, refused.status, headers)


def failure(kind: str) -> Response:
    match kind:
        case "html_error":
            return html_error()
        case "refuse":
            return invalid_request(Invalid("Amount must be no more than 999,999.99", "amount_too_large", "amount"))
        case "rate_limited":
            error = {"message": "Request rate limit exceeded.", "code": "rate_limit", "type": "invalid_request_error"}
            return reply({"error": error}, 429, {"Stripe-Should-Retry": "true"})
        case _:
            error = {"message": "An unknown error occurred", "type": "api_error"}
            return reply({"error": error}, 500, {"Stripe-Should-Retry": "false"})
