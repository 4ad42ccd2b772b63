"""What every verb of a provider beyond collecting must hold: refunds, transfers, purchases, what a customer submits, lookups.

A provider's test file subclasses `VerbsContract` and fills in its verbs as data:

    class TestPaystackVerbs(VerbsContract):
        adapter = Paystack
        credentials = CREDENTIALS
        secrets = SECRETS
        verbs = (Verb("refund", (a_refund(...),), accepted=Reply(200, {...}), path="/refund", cases=(Case(...), ...)), ...)
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from payflow.core.money import Money
from payflow.gateway.contract import (
    Destination,
    LookupFailed,
    Operation,
    PayoutOrder,
    PurchaseOrder,
    Query,
    RefundOrder,
    RefundQuery,
    Result,
    Verdict,
)
from tests.providers.contract_suite import (
    CALLBACK_URL,
    MALFORMED,
    NOW,
    TRANSACTION_ID,
    Case,
    Provider,
    Reply,
    Wire,
    check_fields,
    closed_port,
    listening,
    on_real_sockets,
    variants,
)

REFUND_REFERENCE = "att9zyxwvtsrqpnmkjhgfedcba98"
PAYMENT_REFERENCE = "att0123456789abcdefghjkmnpqr"


@dataclass(frozen=True)
class Verb:
    """One method of an adapter, called with `arguments` and then the credentials.

    `accepted` is the usual good answer to its last request, `path` and `method` where that goes. `preliminary` are the
    answers to requests before it, by path. `asks`: a question, whose silence is `unknown` and never `not_sent`. `money` is
    the amount that a `completed` may name. A lookup gives no Result and raises LookupFailed.
    """

    name: str
    arguments: tuple[Any, ...]
    accepted: Reply
    path: str
    method: str = "POST"
    cases: tuple[Case, ...] = ()
    preliminary: Mapping[str, Reply] = field(default_factory=dict)
    asks: bool = False
    lookup: bool = False
    money: Money | None = None
    label: str = ""

    def __str__(self) -> str:
        return self.label or self.name


def a_payment(amount: Money, *provider_references: str) -> Query:
    return Query(Operation.COLLECT, PAYMENT_REFERENCE, provider_references, amount, NOW)


def a_refund(amount: Money, payment: Query, **changes: Any) -> RefundOrder:
    order = RefundOrder(
        reference=REFUND_REFERENCE,
        transaction_id=TRANSACTION_ID,
        payment=payment,
        amount=amount,
        whole=amount == payment.amount,
        callback_url=CALLBACK_URL,
        receipt="RCPT123",
        reason="Returned goods",
    )
    return dataclasses.replace(order, **changes)


def a_refund_query(amount: Money, payment: Query, *provider_references: str, **changes: Any) -> RefundQuery:
    query = RefundQuery(REFUND_REFERENCE, provider_references, amount, NOW, payment)
    return dataclasses.replace(query, **changes)


def a_payout(amount: Money, destination: Destination, **changes: Any) -> PayoutOrder:
    order = PayoutOrder(REFUND_REFERENCE, TRANSACTION_ID, amount, destination, CALLBACK_URL, "Withdrawal")
    return dataclasses.replace(order, **changes)


def a_payout_query(amount: Money, *provider_references: str) -> Query:
    return Query(Operation.PAYOUT, REFUND_REFERENCE, provider_references, amount, NOW)


def a_purchase(amount: Money, service_id: str, phone: str, **changes: Any) -> PurchaseOrder:
    created_at = datetime(2026, 3, 4, 9, 30, 15, tzinfo=UTC)
    order = PurchaseOrder(REFUND_REFERENCE, TRANSACTION_ID, created_at, service_id, amount, phone)
    return dataclasses.replace(order, **changes)


def a_purchase_query(amount: Money, *provider_references: str) -> Query:
    return Query(Operation.PURCHASE, REFUND_REFERENCE, provider_references, amount, NOW)


async def call(adapter: Any, verb: Verb, credentials: Any) -> Any:
    return await getattr(adapter, verb.name)(*verb.arguments, credentials)


class VerbsContract:
    adapter: ClassVar[Any]
    credentials: ClassVar[Any]
    secrets: ClassVar[tuple[str, ...]]
    preliminary: ClassVar[Mapping[str, Reply]] = {}
    verbs: ClassVar[tuple[Verb, ...]]

    def wire(self, verb: Verb, *replies: Reply | Exception) -> Wire:
        return Wire(*replies, preliminary={**self.preliminary, **verb.preliminary})

    async def outcome(self, verb: Verb, *replies: Reply) -> Any:
        """The Result, or for a lookup its answer; None when a lookup failed."""
        try:
            return await call(self.wire(verb, *replies).build(self.adapter), verb, self.credentials)
        except LookupFailed:
            assert verb.lookup
            return None

    async def test_each_answer_is_read_by_the_table(self, verb: Verb) -> None:
        for case in verb.cases:
            result = await self.outcome(verb, case.reply)
            assert result.verdict is case.verdict, case.name
            check_fields(result, case.expected, case.failure)

    async def test_the_last_request_goes_where_it_should(self, verb: Verb) -> None:
        wire = self.wire(verb, verb.accepted)
        await call(wire.build(self.adapter), verb, self.credentials)
        assert [(request.method, request.url.path) for request in wire.requests] == [(verb.method, verb.path)]
        for request in wire.requests + wire.early:
            assert not any(secret in str(request.url) for secret in self.secrets)

    async def test_an_answer_that_cannot_be_read_is_unknown(self, verb: Verb) -> None:
        for name, reply in MALFORMED.items():
            result = await self.outcome(verb, reply)
            if not verb.lookup:
                assert (result.verdict, result.failure) == (Verdict.UNKNOWN, None), name

    async def test_an_answer_cut_short_is_unknown(self, verb: Verb) -> None:
        whole = verb.accepted.content
        for length in (1, len(whole) // 2, len(whole) - 1):
            result = await self.outcome(verb, Reply(200, whole[:length]))
            assert result is None if verb.lookup else result.verdict is Verdict.UNKNOWN

    async def test_no_odd_value_raises_or_completes_with_other_money(self, verb: Verb) -> None:
        for body in variants(verb.accepted.body):
            for status in (200,) if verb.asks or verb.lookup else (200, 400, 500):
                result = await self.outcome(verb, Reply(status, body))
                if isinstance(result, Result) and result.verdict is Verdict.COMPLETED:
                    for told in (result.requested, result.paid):
                        assert told is None or told == verb.money or told.minor == 0

    async def test_a_refused_connection_is_not_sent_and_a_question_stays_unknown(self, verb: Verb) -> None:
        async with on_real_sockets(self.adapter, f"http://127.0.0.1:{closed_port()}") as adapter:
            if verb.lookup:
                with pytest.raises(LookupFailed) as failed:
                    await call(adapter, verb, self.credentials)
                assert failed.value.failure is None
                return
            result = await call(adapter, verb, self.credentials)
            assert result.verdict is (Verdict.UNKNOWN if verb.asks else Verdict.NOT_SENT)

    async def test_a_lost_answer_is_unknown(self, verb: Verb) -> None:
        for step, seconds in (("close", 5.0), ("silence", 0.15)):
            provider = Provider({**self.preliminary, **verb.preliminary}, [step, step])
            async with (
                listening(provider) as url,
                on_real_sockets(self.adapter, url, timeout_seconds=seconds) as adapter,
            ):
                if verb.lookup:
                    with pytest.raises(LookupFailed):
                        await call(adapter, verb, self.credentials)
                else:
                    assert (await call(adapter, verb, self.credentials)).verdict is Verdict.UNKNOWN
            assert provider.paths[:1] == [verb.path]

    async def test_no_secret_is_told_even_when_the_provider_repeats_it(
        self, verb: Verb, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(0)
        for secret in self.secrets:
            words = f"Invalid API Key provided: {secret}"
            for body in (
                {"status": False, "message": words, "error": {"message": words}, "errorMessage": words},
                words,
            ):
                for status in (200, 400, 401, 500):
                    adapter = self.wire(verb, Reply(status, body)).build(self.adapter)
                    try:
                        told = repr(await call(adapter, verb, self.credentials))
                    except LookupFailed as error:
                        told = repr(error) + repr(error.failure)
                    assert secret not in told
            assert secret not in caplog.text


__all__ = [
    "PAYMENT_REFERENCE",
    "REFUND_REFERENCE",
    "Verb",
    "VerbsContract",
    "a_payment",
    "a_payout",
    "a_payout_query",
    "a_purchase",
    "a_purchase_query",
    "a_refund",
    "a_refund_query",
]
