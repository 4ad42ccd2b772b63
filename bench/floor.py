"""The least that can take a webhook: raw ASGI, the signature, one persistent message with its confirm. No PayFlow in it.

    python -m bench.floor PORT AMQP_URL QUEUE

The intake is compared with it in the same run, as the ratio of the two is steadier than either.
"""

import hashlib
import hmac
import sys
from typing import Any

import aio_pika
import uvicorn

from bench.load import SECRET

_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"2")]


class Floor:
    def __init__(self, amqp_url: str, queue: str) -> None:
        self._amqp_url = amqp_url
        self._queue = queue
        self._exchange: Any = None
        self._connection: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        given = next((value for name, value in scope["headers"] if name == b"x-paystack-signature"), b"")
        expected = hmac.new(SECRET.encode(), body, hashlib.sha512).hexdigest().encode()
        status = 200 if hmac.compare_digest(given, expected) else 401
        if status == 200:
            stored = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await self._exchange.publish(stored, routing_key=self._queue, mandatory=True)
        await send({"type": "http.response.start", "status": status, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": b"{}"})

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        self._connection = await aio_pika.connect(self._amqp_url)
        channel = await self._connection.channel(on_return_raises=True)
        await channel.declare_queue(
            self._queue, durable=True, arguments={"x-queue-type": "quorum", "x-max-length": 1_000}
        )
        self._exchange = channel.default_exchange
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await channel.queue_delete(self._queue)
        await self._connection.close()
        await send({"type": "lifespan.shutdown.complete"})


if __name__ == "__main__":
    uvicorn.run(
        Floor(sys.argv[2], sys.argv[3]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
