"""Two API nodes, two workers and the simulator, each a process of its own: where a client watches does not matter."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.faults.cluster import Cluster, Process
from tests.faults.watcher import watch_merchant, watch_payment, watching


@pytest.fixture(scope="module")
async def other_node(cluster: Cluster) -> AsyncIterator[Process]:
    """The second node, and two workers behind both."""
    second, *workers = await asyncio.gather(cluster.api("other"), cluster.worker("one"), cluster.worker("two"))
    yield second
    await asyncio.gather(*(process.stop() for process in (second, *workers)))


@pytest.mark.parametrize("provider", ["paystack", "mpesa", "stripe"])
async def test_a_client_of_one_node_sees_the_payment_of_the_other(
    cluster: Cluster, other_node: Process, provider: str
) -> None:
    # Those that other tests of this folder started have ended.
    assert sum(process.is_running for process in cluster.processes) == 5
    ada = await cluster.merchant(cluster.node)
    async with AsyncExitStack() as stack:
        everything = await stack.enter_async_context(watching(watch_merchant(ada, other_node.url)))
        payment = await ada.pay(provider)
        watcher = await stack.enter_async_context(watching(watch_payment(ada, payment["id"], other_node.url)))
        await watcher.until("payment.requires_action")
        # The socket stands before the customer pays, so what follows comes live.
        reference = (await ada.payment(payment["id"]))["attempts"][0]["reference"]
        await cluster.act(provider, reference)
        await watcher.until("payment.completed")
        await everything.until("payment.completed")

    assert watcher.connections == 1
    assert [(frame["sequence"], frame["type"]) for frame in watcher.frames] == [
        (1, "payment.initiated"),
        (2, "payment.requires_action"),
        (3, "payment.completed"),
    ]
    assert {frame["event_id"] for frame in watcher.frames} <= {frame["event_id"] for frame in everything.frames}
    # The provider reported to the node where nobody watched.
    urls = {delivery["url"] for delivery in await cluster.deliveries(provider, reference)}
    assert urls
    assert all(url.startswith(cluster.node.url) for url in urls)
    timeline = (await cluster.elsewhere(ada, other_node).payment(payment["id"]))["timeline"]
    assert [event["id"] for event in timeline] == [frame["event_id"] for frame in watcher.frames]
