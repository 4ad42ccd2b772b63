"""A client that connects again with `?after=` sees every event once or more, none missing, in order, whatever is lost."""

import asyncio
from contextlib import AsyncExitStack

from tests.faults.cluster import Cluster
from tests.faults.stream import WebhookStream, payments_of
from tests.faults.watcher import watch_merchant, watch_payment, watching
from tests.house import eventually

PAYMENTS = 40
HISTORY = [1, 2, 3]


async def test_clients_of_a_killed_node_go_on_at_another_and_miss_nothing_even_if_nothing_is_published(
    cluster: Cluster,
) -> None:
    # The worker's messages never reach Redis, so the log alone can tell.
    doomed, mute = await asyncio.gather(cluster.api("doomed"), cluster.worker("mute", dies="mute"))
    nodes = (doomed.url, cluster.node.url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(mute.stop)
        ada = await cluster.merchant(cluster.node)
        payments = await payments_of(cluster, ada, PAYMENTS)
        everything = await stack.enter_async_context(watching(watch_merchant(ada, *nodes)))
        closely = [
            await stack.enter_async_context(watching(watch_payment(ada, payment.id, *nodes)))
            for payment in payments[:8]
        ]
        stream = WebhookStream([cluster.node.url], payments)
        stack.push_async_callback(stream.aclose)
        # Half of those who are watched closely see the end before their node dies, half after it.
        await stream.send(4)
        for watcher in closely[:4]:
            await watcher.until("payment.completed")
        await stream.send_while(asyncio.to_thread(doomed.kill))
        await stream.send()

        for watcher in closely:
            await watcher.until("payment.completed")
            await eventually(lambda watcher=watcher: watcher.connections > 1, what="the second node")
        # By payment: after a reconnection the merchant's socket may tell some a second time.
        whole = {payment.id: HISTORY for payment in payments}
        await eventually(lambda: everything.histories() == whole, what="every payment's history")
    assert [watcher.sequences for watcher in closely] == [HISTORY] * len(closely)
    assert everything.connections > 1
