"""Destinations, approvals, and what went out of a wallet lately. Every write is in the caller's database transaction."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from payflow.gateway.contract import Destination, DestinationType
from payflow.infra.database import Database, RawConnection


@dataclass(frozen=True, slots=True)
class Approval:
    """Of one withdrawal; `decision` None while nobody has decided."""

    requested_by: UUID
    decided_by: UUID | None
    decision: str | None
    reason: str | None
    created_at: datetime
    decided_at: datetime | None


_APPROVAL = "requested_by, decided_by, decision, reason, created_at, decided_at"


async def add_destination(connection: RawConnection, transaction_id: UUID, to: Destination) -> None:
    await connection.execute(
        """
        INSERT INTO payout_destinations (transaction_id, type, account_name, bank_code, account_number, phone)
        VALUES ($1, $2, $3, $4, $5, $6)
        """,
        transaction_id,
        to.type.value,
        to.account_name,
        to.bank_code,
        to.account_number,
        to.phone,
    )


async def add_approval(connection: RawConnection, transaction_id: UUID, requested_by: UUID) -> None:
    await connection.execute(
        "INSERT INTO payout_approvals (transaction_id, requested_by) VALUES ($1, $2)", transaction_id, requested_by
    )


async def lock_approval(connection: RawConnection, transaction_id: UUID) -> Approval | None:
    """Locked before the transaction itself, by everybody who decides: the second of two sees what the first decided."""
    row = await connection.fetchrow(
        f"SELECT {_APPROVAL} FROM payout_approvals WHERE transaction_id = $1 FOR UPDATE", transaction_id
    )
    return None if row is None else Approval(*row)


async def decide(
    connection: RawConnection, transaction_id: UUID, decided_by: UUID, decision: str, reason: str, now: datetime
) -> None:
    await connection.execute(
        """
        UPDATE payout_approvals SET decided_by = $2, decision = $3, reason = $4, decided_at = $5
        WHERE transaction_id = $1
        """,
        transaction_id,
        decided_by,
        decision,
        reason,
        now,
    )


async def gone_out(connection: RawConnection, user_id: UUID, currency: str, since: datetime) -> tuple[int, int]:
    """How many withdrawals of a wallet began since then, and their minor units; without those that sent nothing."""
    row = await connection.fetchrow(
        """
        SELECT count(*), coalesce(sum(amount_minor), 0)::bigint FROM transactions
        WHERE kind = 'withdrawal' AND user_id = $1 AND currency = $2 AND created_at > $3
            AND status NOT IN ('failed', 'cancelled')
        """,
        user_id,
        currency,
        since,
    )
    return int(row[0]), int(row[1])


class PayoutRepository:
    """Reads. Whether the withdrawal is the caller's was seen before."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def destination(self, transaction_id: UUID) -> Destination | None:
        """None once it was erased."""
        async with self._database.raw() as connection:
            row = await connection.fetchrow(
                """
                SELECT type, account_name, bank_code, account_number, phone FROM payout_destinations
                WHERE transaction_id = $1
                """,
                transaction_id,
            )
        if row is None:
            return None
        return Destination(
            DestinationType(row["type"]), row["account_name"], row["bank_code"], row["account_number"], row["phone"]
        )

    async def approval(self, transaction_id: UUID) -> Approval | None:
        """None for a withdrawal that needed none."""
        async with self._database.raw() as connection:
            row = await connection.fetchrow(
                f"SELECT {_APPROVAL} FROM payout_approvals WHERE transaction_id = $1", transaction_id
            )
        return None if row is None else Approval(*row)
