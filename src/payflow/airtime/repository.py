"""What was bought, for which number: written with its transaction, apart from the books, so that it can be erased."""

from dataclasses import dataclass
from uuid import UUID

from payflow.infra.database import Database, RawConnection


@dataclass(frozen=True, slots=True)
class Purchase:
    """`phone` in E.164; None once it was erased."""

    service_id: str
    variation_code: str | None
    phone: str | None


async def add_purchase(connection: RawConnection, transaction_id: UUID, purchase: Purchase) -> None:
    await connection.execute(
        "INSERT INTO airtime_purchases (transaction_id, service_id, variation_code, phone) VALUES ($1, $2, $3, $4)",
        transaction_id,
        purchase.service_id,
        purchase.variation_code,
        purchase.phone,
    )


class PurchaseRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, transaction_id: UUID) -> Purchase | None:
        """Of a transaction whose owner the caller has seen to."""
        async with self._database.raw() as connection:
            row = await connection.fetchrow(
                "SELECT service_id, variation_code, phone FROM airtime_purchases WHERE transaction_id = $1",
                transaction_id,
            )
        return None if row is None else Purchase(row["service_id"], row["variation_code"], row["phone"])
