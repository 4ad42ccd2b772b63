"""A worker is killed with SIGKILL where a webhook is half done; the next one finishes it: told again, posted once."""

from typing import Any

import pytest

from tests.faults.cluster import Cluster
from tests.faults.halves import KILLED, WHOLE_LIFE, assert_paid_once, half_state
from tests.faults.watcher import Watcher, watch_payment, watching
from tests.house import Merchant, eventually


async def killed_worker(cluster: Cluster, ada: Merchant, provider: str, point: str) -> tuple[str, dict[str, Any]]:
    """A payment is paid, and the worker that takes its webhook dies at this point. The payment's id, and the half state."""
    payment = await ada.pay(provider)
    [attempt] = (await ada.payment(payment["id"]))["attempts"]
    await cluster.act(provider, attempt["reference"])
    [delivery] = await cluster.deliveries(provider, attempt["reference"])
    assert delivery["status_codes"] == [200]
    await cluster.until_waiting(webhooks=1)

    dying = await cluster.worker(f"dying-{point}-{provider}", dies=point)
    assert await dying.died() == KILLED
    half = await half_state(cluster, ada)
    assert half["transaction"]["status"] == "completed"
    assert [row["status"] for row in half["attempts"]] == ["succeeded"]
    assert half["events"] == WHOLE_LIFE
    assert half["journals"] == 1
    # Not acknowledged, so the broker has it again.
    await cluster.until_waiting(webhooks=1)
    return payment["id"], half


async def finished_by_another(cluster: Cluster, ada: Merchant, payment_id: str, watcher: Watcher) -> None:
    ordinary = await cluster.worker("ordinary")
    try:
        await cluster.until_waiting()
        await watcher.until("payment.completed")
        await assert_paid_once(cluster, ada, payment_id)
    finally:
        await ordinary.stop()
    assert watcher.types == WHOLE_LIFE


@pytest.mark.parametrize(("provider", "remembered"), [("paystack", 1), ("mpesa", 0)])
async def test_a_worker_killed_before_it_published_is_followed_by_one_that_does(
    cluster: Cluster, provider: str, remembered: int
) -> None:
    ada = await cluster.merchant(cluster.node)
    async with cluster.published(f"user:{ada.id}") as heard:
        payment_id, half = await killed_worker(cluster, ada, provider, "committed")
        assert half["webhook_events"] == remembered
        assert [event["type"] for event in heard] == WHOLE_LIFE[:2]
        async with watching(watch_payment(ada, payment_id, cluster.node.url)) as watcher:
            await finished_by_another(cluster, ada, payment_id, watcher)
        await eventually(lambda: "payment.completed" in [event["type"] for event in heard], what="the publication")


async def test_a_worker_killed_before_it_acknowledged_tells_twice_and_posts_once(cluster: Cluster) -> None:
    ada = await cluster.merchant(cluster.node)
    async with cluster.published(f"user:{ada.id}") as heard:
        payment_id, half = await killed_worker(cluster, ada, "paystack", "published")
        assert half["webhook_events"] == 1
        await eventually(lambda: [event["type"] for event in heard] == WHOLE_LIFE, what="the first publication")
        async with watching(watch_payment(ada, payment_id, cluster.node.url)) as watcher:
            await finished_by_another(cluster, ada, payment_id, watcher)
        completed = [event["event_id"] for event in heard if event["type"] == "payment.completed"]
        assert len(completed) == 2
        assert len(set(completed)) == 1
