"""Posting: accounts are opened on first use, journals and entries are written in the caller's transaction."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from payflow.core.ids import uuid7
from payflow.infra.database import RawConnection
from payflow.ledger.journals import Journal, Line, account_id

OPEN_ACCOUNTS = """
    INSERT INTO ledger_accounts (id, code, user_id, currency)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[]) ON CONFLICT DO NOTHING RETURNING id
"""
INSERT_JOURNALS = """
    INSERT INTO ledger_journals (id, kind, source_type, source_id, transaction_id)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::uuid[])
"""
INSERT_ENTRIES = """
    INSERT INTO ledger_entries (journal_id, account_id, currency, amount_minor)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[])
"""


class Accounts:
    """Which accounts this process knows to exist, so that only a first posting asks the database.

    An account is remembered when it was found, not when it was opened: the transaction that opened it may yet roll back.
    """

    def __init__(self) -> None:
        self._known: set[UUID] = set()

    async def open(self, connection: RawConnection, journals: Sequence[Journal]) -> None:
        """Open the accounts of these journals that are not known yet, in the caller's transaction."""
        fresh: dict[UUID, Line] = {}
        for journal in journals:
            for line in journal.lines:
                identity = account_id(line.code, line.user_id, line.currency)
                if identity not in self._known:
                    fresh[identity] = line
        if not fresh:
            return
        ordered = sorted(fresh.items())
        opened = await connection.fetch(
            OPEN_ACCOUNTS,
            [identity for identity, _ in ordered],
            [line.code for _, line in ordered],
            [line.user_id for _, line in ordered],
            [line.currency for _, line in ordered],
        )
        if len(self._known) > 100_000:
            self._known.clear()
        self._known |= fresh.keys() - {row["id"] for row in opened}


def parameters(journals: Sequence[Journal]) -> tuple[list[list[Any]], list[list[Any]]]:
    """The arrays of `INSERT_JOURNALS` and of `INSERT_ENTRIES`."""
    ids = [uuid7() for _ in journals]
    lines = [(identity, line) for identity, journal in zip(ids, journals, strict=True) for line in journal.lines]
    return (
        [
            ids,
            [journal.kind for journal in journals],
            [journal.source_type for journal in journals],
            [journal.source_id for journal in journals],
            [journal.transaction_id for journal in journals],
        ],
        [
            [identity for identity, _ in lines],
            [account_id(line.code, line.user_id, line.currency) for _, line in lines],
            [line.currency for _, line in lines],
            [line.amount_minor for _, line in lines],
        ],
    )
