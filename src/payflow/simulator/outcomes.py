"""What can happen to a charge, as data: providers read the flags, none of them knows an outcome by name."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Answer = Literal["normal", "slow", "hang", "drop", "server_error", "refuse", "rate_limited", "html_error"]
Operation = Literal["collect", "refund", "payout", "purchase"]

PROVIDERS = ("paystack", "mpesa", "stripe", "standardbank_pay", "moniepoint", "cpay", "flutterwave", "vtpass")
SELLERS = ("vtpass",)  # of airtime: they do nothing else, and nobody else does it
MAGIC_DIGITS = 1000  # the last three digits of an amount choose the outcome


@dataclass(frozen=True)
class Outcome:
    name: str
    code: int | None  # last three digits of a magic amount
    description: str
    answer: Answer = "normal"
    charges: bool = True  # whether the call leaves a charge behind
    customer: tuple[str, ...] = ("pay",)  # what the customer does, one delay apart
    webhooks: bool = True
    queries: bool = True
    copies: int = 1
    stale_event_after: bool = False
    wrong_amount: bool = False
    wrong_currency: bool = False
    fee_on_top: bool = False
    valid_signature: bool = True
    webhook_before_answer: bool = False
    operations: tuple[Operation, ...] = ("collect",)
    providers: tuple[str, ...] = PROVIDERS


ALL: tuple[Operation, ...] = ("collect", "refund", "payout", "purchase")
SIGNED = ("paystack", "stripe", "standardbank_pay", "moniepoint", "flutterwave")
TELL_AMOUNTS = tuple(name for name in PROVIDERS if name != "cpay")  # its answers tell none

OUTCOMES = {
    outcome.name: outcome
    for outcome in (
        Outcome("success", None, "the customer pays, the webhook tells", operations=ALL),
        Outcome("decline", 901, "declined; a refund fails", customer=("decline",), operations=ALL),
        Outcome("insufficient_funds", 902, "declined for lack of money", customer=("insufficient_funds",)),
        Outcome("cancelled", 903, "the customer cancels (M-Pesa 1032)", customer=("cancel",)),
        Outcome("expired", 904, "nobody acts until the session ends (M-Pesa 1037)", customer=("expire",)),
        Outcome("silent", 905, "nobody acts, no webhook, queries say pending", customer=(), operations=ALL),
        Outcome("no_answer", 906, "as silent, and queries fail too", customer=(), webhooks=False, queries=False),
        Outcome(
            "timeout_after_charging", 907, "the charge exists and succeeds, the call hangs", "hang", operations=ALL
        ),
        Outcome("late_success_after_failure", 908, "fails, later succeeds", customer=("decline", "pay")),
        Outcome("duplicate", 909, "each webhook three times", copies=3, operations=ALL),
        Outcome("out_of_order", 910, "the final event first, an older one after it", stale_event_after=True),
        Outcome("wrong_amount", 911, "another amount is paid", wrong_amount=True, providers=TELL_AMOUNTS,
                operations=("collect", "purchase")),
        Outcome("wrong_currency", 912, "another currency is paid", wrong_currency=True, providers=SIGNED),
        Outcome("bad_signature", 913, "webhooks signed with another key", valid_signature=False, providers=SIGNED),
        Outcome("slow", 914, "the call takes slow_seconds, then is normal", "slow", operations=ALL),
        Outcome("server_error", 915, "5xx, nothing charged", "server_error", charges=False, operations=ALL),
        Outcome("server_error_after_charging", 916, "5xx, yet charged", "server_error", operations=ALL),
        Outcome("refuse", 917, "a documented refusal (4xx; M-Pesa 500)", "refuse", charges=False, operations=ALL),
        Outcome("rate_limited", 918, "429, nothing charged", "rate_limited", charges=False, operations=ALL),
        Outcome("html_error", 919, "502 and an HTML page, no charge", "html_error", charges=False, operations=ALL),
        Outcome("callback_before_ack", 920, "the webhook arrives before the answer", webhook_before_answer=True),
        Outcome("webhook_only", 921, "succeeds, queries fail", queries=False, operations=("collect", "purchase")),
        Outcome("query_only", 922, "succeeds, no webhook", webhooks=False, operations=ALL),
        Outcome("dropped_after_charging", 923, "charged, the connection breaks in the answer", "drop", operations=ALL),
        Outcome("fee_on_top", 924, "the customer pays the fee on top", fee_on_top=True,
                providers=("paystack", "flutterwave")),
        Outcome("needs_attention", 925, "the refund stops for bank details",
                customer=("needs_attention",), operations=("refund",), providers=("paystack",)),
        Outcome("asynchronous", 926, "first processing, later paid", customer=("process", "pay"),
                providers=(*SIGNED, *SELLERS), operations=("collect", "purchase")),
        Outcome("asynchronous_failure", 927, "first processing, later declined",
                customer=("process", "decline"), providers=(*SIGNED, *SELLERS), operations=("collect", "purchase")),
        Outcome("late_failure", 928, "succeeds, and fails or is sent back later",
                customer=("pay", "reverse"), operations=("refund", "payout", "purchase")),
        Outcome("needs_otp", 929, "the transfer waits for the merchant's code",
                customer=("otp", "pay"), operations=("payout",)),
    )
}  # fmt: skip
BY_CODE = {outcome.code: outcome for outcome in OUTCOMES.values() if outcome.code is not None}

# Kenyan numbers of the range nobody is assigned: 2547000009 + two digits, the same order as the amounts.
MAGIC_PHONES = {
    f"2547000009{code - 900:02d}": outcome
    for code, outcome in BY_CODE.items()
    if "mpesa" in outcome.providers and "collect" in outcome.operations
}


def for_amount(amount: int) -> Outcome | None:
    return BY_CODE.get(amount % MAGIC_DIGITS)


def table() -> list[dict[str, Any]]:
    phones = {outcome.name: phone for phone, outcome in MAGIC_PHONES.items()}
    return [
        {
            "outcome": outcome.name,
            "amount_ends_with": outcome.code,
            "mpesa_phone": phones.get(outcome.name),
            "operations": list(outcome.operations),
            "providers": [name for name in outcome.providers if any(can(name, each) for each in outcome.operations)],
            "description": outcome.description,
        }
        for outcome in OUTCOMES.values()
    ]


def can(provider: str, operation: str) -> bool:
    return (provider in SELLERS) == (operation == "purchase")


def supports(provider: str, name: str, operation: str) -> bool:
    outcome = OUTCOMES.get(name)
    if outcome is None or not can(provider, operation):
        return False
    return provider in outcome.providers and operation in outcome.operations


class UnknownOutcome(ValueError):
    """No such outcome for this provider and operation."""


@dataclass(frozen=True)
class Decision:
    outcome: Outcome
    delay_seconds: float | None = None


@dataclass
class Override:
    decision: Decision
    remaining: int | None  # None: the default until it is cleared


@dataclass
class Overrides:
    """An override with a count goes before the provider's default, and both before a magic amount."""

    queues: dict[tuple[str, str], list[Override]] = field(default_factory=dict)

    def add(
        self,
        provider: str,
        name: str,
        *,
        times: int | None,
        delay_seconds: float | None = None,
        operation: str = "collect",
    ) -> None:
        if not supports(provider, name, operation):
            raise UnknownOutcome(f"{provider} has no outcome {name!r} for {operation!r}")
        queue = self.queues.setdefault((provider, operation), [])
        if times is None:
            queue[:] = [item for item in queue if item.remaining is not None]
        queue.append(Override(Decision(OUTCOMES[name], delay_seconds), times))
        queue.sort(key=lambda item: item.remaining is None)  # stable: counted ones keep their order

    def choose(self, provider: str, operation: Operation, magic: Iterable[Outcome | None]) -> Decision:
        queue = self.queues.get((provider, operation))
        if queue:
            override = queue[0]
            if override.remaining is not None:
                override.remaining -= 1
                if override.remaining <= 0:
                    queue.pop(0)
            return override.decision
        for outcome in magic:
            if outcome is not None and supports(provider, outcome.name, operation):
                return Decision(outcome)
        return Decision(OUTCOMES["success"])

    def clear(self, provider: str | None = None) -> None:
        for key in list(self.queues):
            if provider is None or key[0] == provider:
                del self.queues[key]

    def describe(self) -> list[dict[str, Any]]:
        return [
            {
                "provider": provider,
                "operation": operation,
                "outcome": item.decision.outcome.name,
                "times": item.remaining,
                "delay_seconds": item.decision.delay_seconds,
            }
            for (provider, operation), queue in self.queues.items()
            for item in queue
        ]
