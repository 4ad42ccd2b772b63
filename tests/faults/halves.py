"""What a killed process leaves behind, and how it must look once an ordinary one has finished it."""

from typing import Any

from tests.faults.cluster import Cluster
from tests.house import Merchant

KILLED = -9
WHOLE_LIFE = ["payment.initiated", "payment.requires_action", "payment.completed"]


async def half_state(cluster: Cluster, ada: Merchant, kind: str = "payment") -> dict[str, Any]:
    """All rows of this merchant's only transaction of the kind."""
    [transaction] = await cluster.rows(
        "SELECT * FROM transactions WHERE user_id::text = $1 AND kind = $2", ada.id, kind
    )
    about = transaction["id"]
    return {
        "id": str(about),
        "transaction": transaction,
        "attempts": await cluster.rows("SELECT * FROM attempts WHERE transaction_id = $1", about),
        "events": [
            row["type"]
            for row in await cluster.rows("SELECT type FROM events WHERE transaction_id = $1 ORDER BY sequence", about)
        ],
        "key": (await cluster.rows("SELECT * FROM idempotency_keys WHERE transaction_id = $1", about))[0],
        "webhook_events": await cluster.count("webhook_events WHERE transaction_id = $1", about),
        "journals": await cluster.count("ledger_journals WHERE transaction_id = $1", about),
    }


async def assert_paid_once(cluster: Cluster, ada: Merchant, payment_id: str) -> None:
    """One completed move without a gap before it, one posting, one charge."""
    payment = await ada.payment(payment_id)
    assert payment["status"] == "completed"
    types = [event["type"] for event in payment["timeline"]]
    assert [event["sequence"] for event in payment["timeline"]] == list(range(1, len(types) + 1))
    assert types.count("payment.initiated") == types.count("payment.completed") == 1
    [journal] = await cluster.rows("SELECT id FROM ledger_journals WHERE transaction_id::text = $1", payment_id)
    entries = await cluster.rows(
        "SELECT a.code, e.amount_minor FROM ledger_entries e JOIN ledger_accounts a ON a.id = e.account_id "
        "WHERE e.journal_id = $1",
        journal["id"],
    )
    assert sum(entry["amount_minor"] for entry in entries) == 0
    assert {entry["code"]: entry["amount_minor"] for entry in entries}["sales"] == -payment["amount_minor"]
    attempt = payment["attempts"][0]
    charges = await cluster.charges(attempt["provider"], attempt["reference"])
    assert (charges["submissions"], charges["charges"]) == (1, 1)
    assert charges["money_taken_minor"] > 0
    await cluster.until_waiting()
    assert await cluster.count("dead_letters") == 0
