"""RabbitMQ, Redis and PostgreSQL stop and start under a stream of webhooks: each one answered 200 takes effect exactly once.

All the while sockets watch, and shoppers come. Nobody restarts a process of ours: nodes and worker recover by themselves.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from tests.faults.cluster import Cluster, Process, Servers
from tests.faults.stream import Payment, Shopper, WebhookStream, payments_of
from tests.faults.watcher import Watcher, watch_merchant, watch_payment, watching
from tests.house import Merchant, eventually
from tests.services import PrivateServer

PAYMENTS = 80
CLOSELY_WATCHED = 4
# How long PostgreSQL stays away: enough for the worker to find out, with messages in its hands.
AWAY_SECONDS = 2.5
HISTORY = [1, 2, 3]


@pytest.fixture(scope="module")
async def other_node(cluster: Cluster) -> AsyncIterator[Process]:
    """A second node, and one worker behind both."""
    second, worker = await asyncio.gather(cluster.api("second"), cluster.worker("only"))
    yield second
    await asyncio.gather(second.stop(), worker.stop())


@dataclass
class Traffic:
    """A merchant's payments, the provider that reports them, and who watches."""

    cluster: Cluster
    ada: Merchant
    payments: list[Payment]
    stream: WebhookStream
    shopper: Shopper
    everything: Watcher
    closely: dict[str, Watcher]

    async def until_completed(self, payments: Sequence[Payment]) -> None:
        ids = [payment.id for payment in payments]
        found: list[int] = []

        async def there() -> bool:
            having = "transactions WHERE id::text = ANY($1) AND status = 'completed'"
            found.append(await self.cluster.count(having, ids))
            return found[-1] == len(ids)

        await eventually(there, seconds=60, what=lambda: f"{len(ids)} completed, {found[-1:]} are")

    async def until_seen(self, payments: Sequence[Payment]) -> None:
        """Until the merchant's socket has seen the completion of these."""
        ids = {payment.id for payment in payments}

        def missing() -> set[str]:
            return ids - {f["transaction_id"] for f in self.everything.frames if f["type"] == "payment.completed"}

        await eventually(lambda: not missing(), seconds=30, what=lambda: f"the completions of {missing()}")

    async def assert_every_accepted_webhook_took_effect_once(self) -> None:
        await self.until_completed(self.payments)
        assert {payment.id for payment in self.payments} == set(self.stream.accepted)
        ids = [payment.id for payment in self.payments]
        moves = await self.cluster.rows(
            "SELECT transaction_id, array_agg(sequence ORDER BY sequence) AS sequences, "
            "count(*) FILTER (WHERE type = 'payment.completed') AS completions "
            "FROM events WHERE transaction_id::text = ANY($1) GROUP BY transaction_id",
            ids,
        )
        assert len(moves) == len(ids)
        assert all((row["sequences"], row["completions"]) == (HISTORY, 1) for row in moves)
        postings = await self.cluster.rows(
            "SELECT j.transaction_id, count(DISTINCT j.id) AS journals, sum(e.amount_minor) AS balance "
            "FROM ledger_journals j JOIN ledger_entries e ON e.journal_id = j.id "
            "WHERE j.transaction_id::text = ANY($1) GROUP BY j.transaction_id",
            ids,
        )
        assert len(postings) == len(ids)
        assert all((row["journals"], row["balance"]) == (1, 0) for row in postings)
        # Nothing is left behind: not in the broker, not in the spool, not on the ladder, not among the dead.
        await self.cluster.until_waiting()
        assert await self.cluster.count("dead_letters") == 0

    async def assert_nothing_was_missed(self) -> None:
        """Every event once or more on the merchant's socket; on a payment's own socket in order too."""
        ids = [payment.id for payment in self.payments]

        def all_seen() -> bool:
            seen = self.everything.histories()
            return all(seen.get(identity) == HISTORY for identity in ids)

        await eventually(all_seen, seconds=30, what="the merchant's socket to see everything")
        for identity, watcher in self.closely.items():
            await eventually(lambda watcher=watcher: watcher.sequences[-1:] == HISTORY[-1:], what=identity)
            assert watcher.sequences == sorted(watcher.sequences)
            assert sorted(set(watcher.sequences)) == HISTORY

    async def assert_shoppers_were_answered(self, *also: int) -> None:
        """201, or 503 that says when to come again; and however often a key is used, it has one payment at most."""
        assert {answer.status_code for answer in self.shopper.answers} <= {201, *also}
        for answer in self.shopper.answers:
            if answer.status_code != 201:
                assert_unavailable(answer)
        # Where the answer was lost the first request may still be under way, for as long as its lease runs.
        assert {answer.status_code for answer in await self.shopper.buy_again()} <= {201, 409}
        opened = await self.cluster.rows(
            "SELECT key, count(*) AS n FROM idempotency_keys WHERE key = ANY($1) GROUP BY key", self.shopper.keys
        )
        assert {row["key"]: row["n"] for row in opened} == dict.fromkeys(self.shopper.keys, 1)
        payments = await self.cluster.count("transactions WHERE user_id::text = $1", self.ada.id)
        assert payments == len(self.payments) + len(self.shopper.keys)


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["status"] == 503


@asynccontextmanager
async def traffic(cluster: Cluster, other_node: Process) -> AsyncIterator[Traffic]:
    ada = await cluster.merchant(cluster.node)
    nodes = (other_node.url, cluster.node.url)
    async with AsyncExitStack() as stack:
        everything = await stack.enter_async_context(watching(watch_merchant(ada, *nodes)))
        payments = await payments_of(cluster, ada, PAYMENTS)
        closely = {
            # Some of the first, and some of the last to be reported.
            payment.id: await stack.enter_async_context(watching(watch_payment(ada, payment.id, *nodes)))
            for payment in payments[:: PAYMENTS // CLOSELY_WATCHED]
        }
        stream = WebhookStream(nodes, payments)
        stack.push_async_callback(stream.aclose)
        yield Traffic(cluster, ada, payments, stream, Shopper(ada), everything, closely)


async def down(server: PrivateServer, how: str) -> None:
    await asyncio.to_thread(server.kill if how == "killed" else server.stop)


async def up(*servers: PrivateServer) -> None:
    await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))


async def metric(node: Process, name: str, **labels: str) -> float:
    """A counter's value on one node."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        text = (await client.get(node.url + "/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith(name) and all(part in line for part in wanted)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def spooled(*nodes: Process) -> float:
    return sum([await metric(node, "webhook_events_total", provider="paystack", outcome="spooled") for node in nodes])


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_without_rabbitmq_webhooks_are_spooled_and_worked_on(
    cluster: Cluster, servers: Servers, other_node: Process, how: str
) -> None:
    before = await spooled(cluster.node, other_node)
    async with traffic(cluster, other_node) as going:
        stream, shopper = going.stream, going.shopper
        await stream.send(10)
        await stream.send_while(down(servers.rabbitmq, how))
        try:
            sent = await stream.send(10)
            assert await spooled(cluster.node, other_node) >= before + 10
            # The spool is no place to wait in: what it took is done while the broker is still away.
            await going.until_completed(sent)
            await shopper.buy()
        finally:
            await stream.send_while(up(servers.rabbitmq))
        await stream.send()
        await going.assert_every_accepted_webhook_took_effect_once()
        await going.assert_nothing_was_missed()
        await going.assert_shoppers_were_answered()
    assert not stream.refused


async def test_without_redis_only_speed_is_lost(cluster: Cluster, servers: Servers, other_node: Process) -> None:
    async with traffic(cluster, other_node) as going:
        stream, shopper = going.stream, going.shopper
        await stream.send(10)
        await stream.send_while(down(servers.redis, "stopped"))
        try:
            sent = await stream.send(30)
            await shopper.buy()
            # The sockets read the log instead.
            await going.until_completed(sent)
            await going.until_seen(sent)
        finally:
            await stream.send_while(up(servers.redis))
        await stream.send()
        await going.assert_every_accepted_webhook_took_effect_once()
        await going.assert_nothing_was_missed()
        await going.assert_shoppers_were_answered()
    assert not stream.refused


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_without_postgres_webhooks_wait_in_the_broker(
    cluster: Cluster, servers: Servers, other_node: Process, how: str
) -> None:
    async with traffic(cluster, other_node) as going:
        stream, shopper = going.stream, going.shopper
        await stream.send(10)
        await shopper.buy_while(stream.send_while(down(servers.postgres, how)))
        try:
            await stream.send(10)
            await shopper.buy_while(stream.send_while(asyncio.sleep(AWAY_SECONDS)))
            assert_unavailable(await shopper.buy())
            assert_unavailable(await going.ada.get(f"/payments/{going.payments[0].id}"))
            assert (await going.ada.get("/health")).status_code == 200
            assert_unavailable(await going.ada.get("/health/ready"))
        finally:
            await shopper.buy_while(stream.send_while(up(servers.postgres)))
        # And once more, only for a moment, with all that waited still under way.
        await shopper.buy_while(stream.send_while(asyncio.to_thread(servers.postgres.restart)))
        await stream.send()
        await going.assert_every_accepted_webhook_took_effect_once()
        await going.assert_nothing_was_missed()
        await going.assert_shoppers_were_answered(503)
    assert not stream.refused


async def test_with_broker_and_database_away_a_webhook_is_refused_and_comes_again(
    cluster: Cluster, servers: Servers, other_node: Process
) -> None:
    async with traffic(cluster, other_node) as going:
        stream, shopper = going.stream, going.shopper
        await stream.send(10)
        await asyncio.gather(down(servers.rabbitmq, "stopped"), down(servers.postgres, "stopped"))
        try:
            knocking = asyncio.create_task(stream.send(20))
            await eventually(lambda: stream.refused[503] >= 20, seconds=30, what=lambda: f"503s, {stream.refused}")
            assert len(stream.accepted) == 10
            assert {(problem["status"], problem["code"]) for problem in stream.problems} == {(503, "unavailable")}
            assert_unavailable(await shopper.buy())
        finally:
            await up(servers.rabbitmq, servers.postgres)
        await knocking
        await stream.send()
        await going.assert_every_accepted_webhook_took_effect_once()
        await going.assert_nothing_was_missed()
        await going.assert_shoppers_were_answered(503)
    assert set(stream.refused) == {503}
