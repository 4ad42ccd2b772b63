"""What the tests of the documents' webhook examples share: the bodies byte for byte, what they are about, and who confirms.

An example names the documents' own references. So that it moves something, a transaction with those references is written
into the database, as the provider's documents have it. The provider's answers to our questions are given beside it.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import orjson

from payflow.core.clock import utc_now
from payflow.core.ids import uuid7
from tests.house import House, Merchant, eventually
from tests.webhooks.desk import PATHS, callback_token, proof, send

ENDS = ("settled", "unchanged", "duplicate", "ignored", "malformed", "dead_lettered")


def read_examples() -> dict[str, dict[str, bytes]]:
    """By provider and name: `# name`, the body exactly as it is sent, an empty line."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted((Path(__file__).parent / "examples").glob("*.txt")):
        blocks = path.read_bytes().removesuffix(b"\n").split(b"\n\n")
        named = (block.removeprefix(b"# ").split(b"\n", 1) for block in blocks)
        found[path.stem] = {name.decode(): body for name, body in named}
    return found


EXAMPLES = read_examples()


class Answering(httpx.AsyncBaseTransport):
    """The providers, as far as a test has put answers into `says`: (part of the address, status, body). Else the simulator."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self.says: list[tuple[str, int, Any]] = []
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for part, status, body in self.says:
            if part in str(request.url):
                self.asked.append(str(request.url))
                return httpx.Response(status, content=orjson.dumps(body), headers={"content-type": "application/json"})
        return await self._inner.handle_async_request(request)


@dataclass(frozen=True)
class Known:
    """A transaction that an example is about, as it stands before."""

    minor: int
    currency: str
    reference: str
    ids: tuple[str, ...] = ()
    kind: str = "payment"
    operation: str = "collect"
    status: str = "requires_action"
    refund: "Known | None" = None
    created_at: datetime | None = None


@dataclass
class Planted:
    id: str
    attempt_id: str
    refund_attempt_id: str | None = None
    refund_id: str | None = None

    def path(self, provider: str, *, of_refund: bool = False) -> str:
        """The address with the token, for providers that do not sign."""
        attempt = self.refund_attempt_id if of_refund and self.refund_attempt_id else self.attempt_id
        return f"{PATHS.get(provider, provider)}/{callback_token(attempt)}"


STANDING = {"requires_action": "requires_action", "processing": "processing", "completed": "succeeded"}


async def plant(house: House, merchant: Merchant, provider: str, known: Known) -> Planted:
    """Write it down as if it had been begun through us."""
    identity, attempt, now = uuid7(), uuid7(), known.created_at or utc_now()
    paid = known.minor if known.status == "completed" else 0
    later = utc_now() + timedelta(days=1)
    async with house.services.database.raw() as connection:
        await connection.execute(
            """
            INSERT INTO transactions (id, user_id, kind, reference, status, version, amount_minor, currency, provider,
                next_check_at, expires_at, created_at, updated_at)
            VALUES ($1, $2, $3, $4, 'pending', 1, $5, $6, $7, $8, $8, $9, $9)
            """,
            identity, UUID(merchant.id), known.kind, "pay" + identity.hex, known.minor, known.currency, provider, later, now,
        )  # fmt: skip
        await connection.execute(
            "UPDATE transactions SET status = $2, version = 2, last_cause = 'provider', paid_minor = $3 WHERE id = $1",
            identity,
            known.status,
            paid,
        )
        await _attempt(connection, merchant, provider, known, identity, attempt, 1, {}, now)
        planted = Planted(str(identity), str(attempt))
        if known.refund is not None:
            refund_attempt, refund = uuid7(), uuid7()
            routing = {"refund_of": known.reference}
            await _attempt(connection, merchant, provider, known.refund, identity, refund_attempt, 2, routing, now)
            await connection.execute(
                "UPDATE attempts SET paid_minor = amount_minor, paid_currency = currency WHERE id = $1", attempt
            )
            await connection.execute(
                """
                INSERT INTO refunds (id, transaction_id, user_id, attempt_id, reference, status, amount_minor, currency,
                    next_check_at, created_at, updated_at, payment_attempt_id)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11)
                """,
                refund, identity, UUID(merchant.id), refund_attempt, "ref" + refund.hex, known.refund.status,
                known.refund.minor, known.refund.currency, later, now, attempt,
            )  # fmt: skip
            planted.refund_attempt_id, planted.refund_id = str(refund_attempt), str(refund)
    return planted


async def _attempt(
    connection: Any, merchant: Merchant, provider: str, known: Known, transaction: UUID, attempt: UUID, number: int,
    routing: dict[str, str], now: datetime,
) -> None:  # fmt: skip
    paid = known.minor if known.status == "completed" else None
    words = orjson.dumps(routing).decode()
    await connection.execute(
        """
        INSERT INTO attempts (id, transaction_id, user_id, number, operation, provider, reference, provider_references,
            status, amount_minor, currency, paid_minor, paid_currency, routing, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15)
        """,
        attempt, transaction, UUID(merchant.id), number, known.operation, provider, known.reference, list(known.ids),
        STANDING[known.status], known.minor, known.currency, paid, known.currency if paid else None, words, now,
    )  # fmt: skip


async def forget(house: House) -> None:
    """The next test may use the same references and events again."""
    async with house.services.database.raw() as connection:
        await connection.execute(
            "UPDATE attempts SET reference = 'gone' || id, provider_references = '{}', receipt = NULL"
        )
        await connection.execute("DELETE FROM webhook_events")


@dataclass
class Counts:
    """`webhook_events_total` of one provider."""

    house: House
    provider: str
    before: dict[str, float] = field(default_factory=dict)

    def now(self) -> dict[str, float]:
        metrics = self.house.services.metrics
        words = (*ENDS, "retried", "accepted", "refused")
        labels = [{"provider": self.provider, "outcome": word} for word in words]
        return {one["outcome"]: metrics.get_sample_value("webhook_events_total", one) or 0.0 for one in labels}

    def since(self) -> dict[str, int]:
        now = self.now()
        return {word: int(now[word] - self.before[word]) for word in now if now[word] != self.before[word]}


async def sent(
    house: House, provider: str, body: bytes, *, path: str | None = None, headers: dict[str, str] | None = None
) -> dict[str, int]:
    """Send the bytes with a genuine proof of origin, and wait for the end: what was counted of them."""
    counts = Counts(house, provider)
    counts.before = counts.now()
    answer = await send(house, path or PATHS.get(provider, provider), body, headers or proof(house, provider, body))
    expected = house.services.registry.declaration(provider).webhook_answer
    assert (answer.status_code, answer.content) == (200, expected), answer.text
    assert answer.headers["content-type"] == "application/json"
    await eventually(lambda: sum(counts.since().get(word, 0) for word in ENDS) >= 1, what=lambda: f"{counts.since()}")
    await asyncio.sleep(0)
    found = counts.since()
    assert found.pop("accepted") == 1
    return found


async def standing(house: House, planted: Planted) -> dict[str, Any]:
    """Status and money of it, and what the books hold of it."""
    (row,) = await house.rows(
        """
        SELECT t.status, t.version, t.paid_minor, t.refunded_minor, t.failure_code, a.status AS attempt, a.receipt,
            a.fee_minor, (SELECT r.status FROM refunds r WHERE r.transaction_id = t.id ORDER BY r.created_at LIMIT 1) AS refund
        FROM transactions t JOIN attempts a ON a.id = $2::text::uuid WHERE t.id = $1::text::uuid
        """,
        planted.id,
        planted.attempt_id,
    )
    journals = await house.rows(
        "SELECT kind FROM ledger_journals WHERE transaction_id = $1::text::uuid ORDER BY kind", planted.id
    )
    return {**row, "journals": [journal["kind"] for journal in journals]}
