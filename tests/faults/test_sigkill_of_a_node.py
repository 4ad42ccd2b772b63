"""An API node is killed with SIGKILL where a payment is half begun; others finish it: one charge, one move, one posting."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.faults.cluster import Cluster, Process
from tests.faults.halves import KILLED, WHOLE_LIFE, assert_paid_once, half_state
from tests.faults.watcher import watch_merchant, watch_payment, watching
from tests.house import BODIES, Merchant, eventually

# Long enough to be asked within, short enough to wait for.
LEASE_SECONDS = 5


@pytest.fixture(scope="module")
async def sleeper(cluster: Cluster) -> AsyncIterator[Process]:
    """An ordinary worker that sleeps until a test has seen the half state."""
    worker = await cluster.worker("sleeper")
    worker.pause()
    yield worker
    worker.resume()
    await worker.stop()


@contextmanager
def awake(sleeper: Process) -> Iterator[None]:
    sleeper.resume()
    try:
        yield
    finally:
        sleeper.pause()


@pytest.mark.parametrize(("provider", "told_by"), [("paystack", "query"), ("mpesa", "webhook"), ("stripe", "webhook")])
async def test_a_node_killed_after_the_providers_answer_leaves_a_payment_that_is_found_again(
    cluster: Cluster, sleeper: Process, provider: str, told_by: str
) -> None:
    ada, key = await cluster.merchant(cluster.node), str(uuid4())
    async with watching(watch_merchant(ada, cluster.node.url)) as everything:
        await initialize_at(cluster, ada, "provider-answered", provider, key)

        # The provider has the order; of its answer we know nothing.
        half = await half_state(cluster, ada)
        assert half["transaction"]["status"] == "pending"
        assert [(row["status"], row["provider_references"]) for row in half["attempts"]] == [("created", [])]
        assert half["events"] == ["payment.initiated"]
        assert (half["key"]["status_code"], half["key"]["body"]) == (None, None)
        assert half["webhook_events"] == half["journals"] == 0
        reference = half["attempts"][0]["reference"]
        charges = await cluster.charges(provider, reference)
        assert (charges["submissions"], charges["charges"], charges["money_taken_minor"]) == (1, 1, 0)

        # While the lease runs nobody can know whether the first request still lives.
        in_flight = await ada.initialize(BODIES[provider], key=key)
        assert in_flight.status_code == 409
        assert in_flight.json()["code"] == "in_flight"
        assert int(in_flight.headers["retry-after"]) >= 1

        # Of its beginning nobody was ever told, yet both sockets of another node know it.
        await everything.until("payment.initiated")
        async with watching(watch_payment(ada, half["id"], cluster.node.url)) as watcher:
            await cluster.simulate(deliver_webhooks=told_by == "webhook")
            await cluster.act(provider, reference)
            await cluster.simulate(deliver_webhooks=True)
            with awake(sleeper):
                await watcher.until("payment.completed", seconds=30)
                replayed = await after_the_lease(ada, BODIES[provider], key)
                await assert_paid_once(cluster, ada, half["id"])
        assert replayed.headers["idempotent-replayed"] == "true"
        assert (replayed.json()["id"], replayed.json()["status"]) == (half["id"], "completed")
        assert replayed.json()["client_token"].startswith("pf_client_")
        await everything.until("payment.completed")
    assert watcher.sequences == list(range(1, len(watcher.frames) + 1))
    assert sorted(everything.sequences) == watcher.sequences


async def after_the_lease(ada: Merchant, body: dict[str, Any], key: str) -> httpx.Response:
    answers: list[httpx.Response] = []

    async def usable() -> bool:
        answers.append(await ada.initialize(body, key=key))
        assert answers[-1].status_code in (201, 409), answers[-1].text
        return answers[-1].status_code == 201

    await eventually(usable, seconds=LEASE_SECONDS + 15, what="the end of the lease")
    return answers[-1]


async def test_a_node_killed_before_it_published_has_lost_nothing(cluster: Cluster, sleeper: Process) -> None:
    ada, key = await cluster.merchant(cluster.node), str(uuid4())
    async with watching(watch_merchant(ada, cluster.node.url)) as watcher:
        await initialize_at(cluster, ada, "committed", "paystack", key)

        half = await half_state(cluster, ada)
        assert half["transaction"]["status"] == "requires_action"
        assert [row["status"] for row in half["attempts"]] == ["requires_action"]
        assert half["events"] == WHOLE_LIFE[:2]
        assert half["key"]["status_code"] == 201
        assert half["webhook_events"] == half["journals"] == 0
        reference = half["attempts"][0]["reference"]
        assert (await cluster.charges("paystack", reference))["submissions"] == 1

        # The key is finished, although nobody heard its answer: there is no lease to wait for.
        replayed = await ada.initialize(BODIES["paystack"], key=key)
        assert (replayed.status_code, replayed.headers["idempotent-replayed"]) == (201, "true")
        assert (replayed.json()["id"], replayed.json()["status"]) == (half["id"], "requires_action")
        assert replayed.json()["next_action"]["type"] == "redirect"

        # The sockets of other nodes find in the log what they were never told.
        await watcher.until("payment.requires_action")
        with awake(sleeper):
            await cluster.act("paystack", reference)
            await watcher.until("payment.completed")
            await assert_paid_once(cluster, ada, half["id"])
    assert watcher.types == WHOLE_LIFE


async def initialize_at(cluster: Cluster, ada: Merchant, point: str, provider: str, key: str) -> None:
    """Send the request to a node that dies at this point, and see it die."""
    dying = await cluster.api(f"dying-{point}-{provider}", dies=point, idempotency_lease_seconds=LEASE_SECONDS)
    with pytest.raises(httpx.TransportError):
        await cluster.elsewhere(ada, dying).initialize(BODIES[provider], key=key)
    assert await dying.died() == KILLED
