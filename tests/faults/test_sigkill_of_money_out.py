"""A withdrawal or a purchase is cut off by SIGKILL at each point of its way; others finish it: one transfer and one capture,
or none and one release, and the books are clean at every moment.

What nobody can know stays held: "not found" is what a provider says of an order that was never sent, and of one that is on
its way, so a person decides it in the end. Time is brought forward in the rows. Who dies is a process of its own; the worker
that finishes it runs in the test's.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from payflow.bootstrap import Services, build_services
from payflow.transactions.books.service import CheckRunning
from tests.airtime.desk import AIRTIME
from tests.faults.cluster import Cluster
from tests.faults.halves import KILLED, half_state
from tests.faults.watcher import Watcher, watch_merchant, watching
from tests.house import BODIES, Merchant, eventually
from tests.payouts.till import body
from worker.app import Worker

FUNDED = 500_000


@dataclass(frozen=True)
class MoneyOut:
    """One way for money to leave a wallet. `path` orders it, `folder` tells of it; `minor` is its amount."""

    kind: str
    provider: str
    path: str
    folder: str
    body: dict[str, Any]
    minor: int


WITHDRAWAL = MoneyOut("withdrawal", "paystack", "/wallet/withdraw", "/wallet/withdrawals", body("paystack"), 150_000)
PURCHASE = MoneyOut("airtime", "vtpass", "/airtime/purchase", "/airtime/purchases", AIRTIME, 50_000)
# By what the provider does with the money: the end, what becomes of the hold, and what the owner is told.
ENDS = {"pay": ("completed", "captured", "wallet.debited"), "decline": ("failed", "released", "wallet.released")}


def named(parameter: Any) -> str:
    return parameter.kind if isinstance(parameter, MoneyOut) else str(parameter)


@pytest.fixture(scope="module")
async def services(cluster: Cluster) -> AsyncIterator[Services]:
    """As a command has them, for the books and to make an administrator."""
    built = build_services(cluster.settings)
    yield built
    await built.close()


@pytest.fixture(scope="module")
def worker(services: Services) -> Worker:
    """An ordinary one. It works only while a test says so: before that, what was cut off is looked at."""
    return Worker(services)


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[None]:
    await worker.start()
    try:
        yield
    finally:
        await worker.stop()


@pytest.fixture
async def ada(cluster: Cluster) -> Merchant:
    """With 5,000.00 NGN, funded without a worker: her own question brings the answer."""
    merchant = await cluster.merchant(cluster.node)
    answer = await merchant.post("/wallet/fund", key="fund", json=BODIES["paystack"])
    assert answer.status_code == 201, answer.text
    [attempt] = (await merchant.payment(answer.json()["id"]))["attempts"]
    await cluster.simulate(deliver_webhooks=False)
    await cluster.act("paystack", attempt["reference"])
    await cluster.simulate(deliver_webhooks=True)
    paid = await merchant.post(f"/payments/{answer.json()['id']}/verify")
    assert paid.json()["status"] == "completed", paid.text
    return merchant


# -- a worker, between the commit of the end and the ack --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "point", "action"),
    [
        (WITHDRAWAL, "committed", "pay"),
        (WITHDRAWAL, "published", "decline"),
        (PURCHASE, "committed", "decline"),
        (PURCHASE, "published", "pay"),
    ],
    ids=named,
)
async def test_a_worker_killed_before_it_acknowledged_has_ended_the_hold_once(
    cluster: Cluster, services: Services, worker: Worker, ada: Merchant, order: MoneyOut, point: str, action: str
) -> None:
    """Paystack's webhook is believed; VTPass' proves nothing, so there it is the check's answer that is committed."""
    ordered = await ada.post(order.path, key=str(uuid4()), json=order.body)
    assert (ordered.status_code, ordered.json()["status"]) == (201, "processing"), ordered.text
    reference = (await half_state(cluster, ada, order.kind))["attempts"][0]["reference"]
    await cluster.act(order.provider, reference, action)
    await cluster.until_waiting(webhooks=1)

    dying = await cluster.worker(f"dying-{order.kind}-{point}", dies=point)
    assert await dying.died() == KILLED
    await cluster.until_waiting(webhooks=1)
    half = await assert_ended_once(cluster, services, ada, order, action)

    async with watching(watch_merchant(ada, cluster.node.url)) as watcher, cluster.published(f"user:{ada.id}") as heard:
        await work_off(cluster, services, worker)
        # Told by whoever worked on the message again, whether or not the first had told of it.
        await eventually(lambda: ENDS[action][2] in [event["type"] for event in heard], what="the publication")
        whole = await assert_ended_once(cluster, services, ada, order, action)
        await all_seen(watcher, whole)
    assert whole["transaction"] == half["transaction"]
    assert await transfers(cluster, order, whole) == 1


# -- an API node, on both sides of the provider's call ----------------------------------------------------------------------


@pytest.mark.parametrize("order", [WITHDRAWAL, PURCHASE], ids=named)
async def test_a_node_killed_before_the_provider_was_asked_sends_nothing_and_the_hold_waits_for_a_person(
    cluster: Cluster, services: Services, worker: Worker, ada: Merchant, order: MoneyOut
) -> None:
    key = str(uuid4())
    half = await cut_off(cluster, services, ada, "held", order, key)
    assert await transfers(cluster, order, half) == 0

    await bring_forward(cluster, half["id"])
    async with watching(watch_merchant(ada, cluster.node.url)) as watcher, working(worker):
        await eventually(lambda: asked(cluster, half["id"]), what="the first question")
        replayed = await ada.post(order.path, key=key, json=order.body)
        assert (replayed.status_code, replayed.json()["id"]) == (201, half["id"])
        assert await held(cluster, ada, order) == (FUNDED - order.minor, order.minor)

        await bring_forward(cluster, half["id"], over=True)
        await until(ada, order, half["id"], "under_review")
        assert await held(cluster, ada, order) == (FUNDED - order.minor, order.minor)
        await assert_books_clean(services)

        admin = await administrator(cluster, services)
        decision = {"outcome": "failed", "reason": "The provider has never heard of it."}
        path = f"{order.folder}/{half['id']}/resolve"
        decided = await admin.post(path, key=str(uuid4()), json=decision)
        assert (decided.status_code, decided.json()["status"]) == (200, "failed"), decided.text
        again = await admin.post(path, key=str(uuid4()), json=decision)
        assert (again.status_code, again.json()["code"]) == (409, "not_under_review")
        await all_seen(watcher, await assert_ended_once(cluster, services, ada, order, "decline"))
    assert await transfers(cluster, order, half) == 0


@pytest.mark.parametrize(
    ("order", "action", "told_by"),
    [(WITHDRAWAL, "pay", "webhook"), (WITHDRAWAL, "decline", "check"), (PURCHASE, "pay", "check")],
    ids=named,
)
async def test_a_node_killed_after_the_providers_answer_has_sent_once_and_the_end_is_found(
    cluster: Cluster, services: Services, worker: Worker, ada: Merchant, order: MoneyOut, action: str, told_by: str
) -> None:
    key = str(uuid4())
    half = await cut_off(cluster, services, ada, "transferred", order, key)
    assert await transfers(cluster, order, half) == 1

    async with watching(watch_merchant(ada, cluster.node.url)) as watcher:
        await cluster.simulate(deliver_webhooks=told_by == "webhook")
        await cluster.act(order.provider, half["attempts"][0]["reference"], action)
        await cluster.simulate(deliver_webhooks=True)
        await bring_forward(cluster, half["id"], due=told_by == "check")
        async with working(worker):
            await until(ada, order, half["id"], ENDS[action][0])
            replayed = await ada.post(order.path, key=key, json=order.body)
            assert (replayed.status_code, replayed.headers["idempotent-replayed"]) == (201, "true")
            assert (replayed.json()["id"], replayed.json()["status"]) == (half["id"], ENDS[action][0])
            await all_seen(watcher, await assert_ended_once(cluster, services, ada, order, action))
    await work_off(cluster, services, worker)
    assert await transfers(cluster, order, half) == 1


async def cut_off(
    cluster: Cluster, services: Services, ada: Merchant, point: str, order: MoneyOut, key: str
) -> dict[str, Any]:
    """Order it at a node that dies at this point. The half state: held, and nothing more is known."""
    dying = await cluster.api(f"dying-{order.kind}-{point}", dies=point)
    with pytest.raises(httpx.TransportError):
        await cluster.elsewhere(ada, dying).post(order.path, key=key, json=order.body)
    assert await dying.died() == KILLED

    half = await half_state(cluster, ada, order.kind)
    assert half["transaction"]["status"] == "pending"
    assert [(row["status"], row["provider_references"]) for row in half["attempts"]] == [("created", [])]
    assert half["events"] == [f"{order.kind}.initiated", "wallet.held"]
    assert (half["key"]["status_code"], half["key"]["body"]) == (None, None)
    assert await posted(cluster, half["id"]) == ["held"]
    assert await held(cluster, ada, order) == (FUNDED - order.minor, order.minor)
    await assert_books_clean(services)
    # While the lease runs nobody can know whether the first request still lives.
    in_flight = await ada.post(order.path, key=key, json=order.body)
    assert (in_flight.status_code, in_flight.json()["code"]) == (409, "in_flight")
    return half


# -- what is asked and asserted ---------------------------------------------------------------------------------------------


async def assert_ended_once(
    cluster: Cluster, services: Services, ada: Merchant, order: MoneyOut, action: str
) -> dict[str, Any]:
    """Captured or released exactly once, told without a gap, and the books are clean. All its rows."""
    status, hold, told = ENDS[action]
    rows = await half_state(cluster, ada, order.kind)
    assert rows["transaction"]["status"] == status
    kinds = ["wallet.held", told, f"{order.kind}.{status}"]
    assert [rows["events"].count(kind) for kind in kinds] == [1, 1, 1], rows["events"]
    assert not {"wallet.debited", "wallet.released", "wallet.credited"} & set(rows["events"]) - {told}
    timeline = (await whole_of(ada, order, rows["id"]))["timeline"]
    assert [event["sequence"] for event in timeline] == list(range(1, rows["transaction"]["version"] + 1))
    assert [event["type"] for event in timeline] == rows["events"]
    assert await posted(cluster, rows["id"]) == sorted(["held", hold])
    found = await cluster.rows("SELECT status FROM holds WHERE transaction_id::text = $1", rows["id"])
    assert [row["status"] for row in found] == [hold]
    left = FUNDED - order.minor if hold == "captured" else FUNDED
    assert await held(cluster, ada, order) == (left, 0)
    await assert_books_clean(services)
    return rows


async def all_seen(watcher: Watcher, rows: dict[str, Any]) -> None:
    """Her socket has each event of it, also those that nobody published."""
    all_of_it = list(range(1, rows["transaction"]["version"] + 1))
    await eventually(lambda: watcher.histories().get(rows["id"]) == all_of_it, what=lambda: f"{watcher.histories()}")


async def work_off(cluster: Cluster, services: Services, worker: Worker) -> None:
    """Until no message is left, also in nobody's hands: who is stopped with one gives it back."""
    while await cluster.messages():
        before = webhooks_ended(services)
        async with working(worker):
            await eventually(lambda before=before: webhooks_ended(services) > before, what="the end of a webhook")
            await cluster.until_waiting()
    assert await cluster.count("dead_letters") == 0


def webhooks_ended(services: Services) -> float:
    samples = [sample for metric in services.metrics.collect() for sample in metric.samples]
    return sum(sample.value for sample in samples if sample.name == "webhook_events_total")


async def assert_books_clean(services: Services) -> None:
    """Of all that any test here has done, and at any moment: also while something is on its way."""
    found: list[Any] = []

    async def checked() -> bool:
        try:
            found.append(await services.books.check())
        except CheckRunning:
            return False
        return True

    await eventually(checked, what="the end of another check")
    assert (list(found[0].breaks), list(found[0].warnings)) == ([], [])


async def whole_of(ada: Merchant, order: MoneyOut, identity: str) -> dict[str, Any]:
    answer = await ada.get(f"{order.folder}/{identity}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def until(ada: Merchant, order: MoneyOut, identity: str, status: str) -> None:
    async def there() -> bool:
        return bool((await whole_of(ada, order, identity))["status"] == status)

    await eventually(there, seconds=30, what=status)


async def transfers(cluster: Cluster, order: MoneyOut, half: dict[str, Any]) -> int:
    """How often the provider was asked for the money, which is how often it has taken it."""
    totals = await cluster.charges(order.provider, half["attempts"][0]["reference"])
    assert totals["submissions"] == totals["charges"]
    return int(totals["submissions"])


async def posted(cluster: Cluster, identity: str) -> list[str]:
    rows = await cluster.rows(
        "SELECT kind FROM ledger_journals WHERE transaction_id::text = $1 ORDER BY kind", identity
    )
    return [row["kind"] for row in rows]


async def held(cluster: Cluster, ada: Merchant, order: MoneyOut) -> tuple[int, int]:
    """What is available, and what is held."""
    [wallet] = await cluster.rows(
        "SELECT available_minor, held_minor FROM wallets WHERE user_id::text = $1 AND currency = $2",
        ada.id,
        order.body["currency"],
    )
    return wallet["available_minor"], wallet["held_minor"]


async def asked(cluster: Cluster, identity: str) -> bool:
    [row] = await cluster.rows("SELECT check_count FROM transactions WHERE id::text = $1", identity)
    return bool(row["check_count"])


async def bring_forward(cluster: Cluster, identity: str, *, due: bool = True, over: bool = False) -> None:
    """The key's lease is over and, if `due`, the provider is to be asked; with `over` an answer has long been overdue."""
    await cluster.rows(
        "UPDATE idempotency_keys SET lease_until = now() WHERE transaction_id::text = $1 RETURNING key", identity
    )
    if due:
        await cluster.rows(
            "UPDATE transactions SET next_check_at = now(), expires_at = expires_at - $2::interval "
            "WHERE id::text = $1 AND next_check_at IS NOT NULL RETURNING id",
            identity,
            timedelta(days=9 if over else 0),
        )


async def administrator(cluster: Cluster, services: Services) -> Merchant:
    email, password = f"{uuid4().hex}@example.com", "correct horse battery"
    await services.identity.create_admin(email, password, "Grace")
    return await cluster.log_in(cluster.node, {"id": "", "email": email}, password)
