"""A payment provider that answers Paystack's initialize and nothing else, as late as it is told to.

    python -m bench.provider PORT
    POST /_latency/50      milliseconds from now on

It is a process of its own and does as little as it can, so that what is measured is the caller.
"""

import asyncio
import json
import sys
from typing import Any

import uvloop

CHECKOUT = "https://checkout.example/"


class Provider(asyncio.Protocol):
    latency_seconds = 0.0

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            length = _content_length(head)
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            self._answer(head.split(b" ", 2)[1], rest[:length])

    def _answer(self, path: bytes, body: bytes) -> None:
        if path.startswith(b"/_latency/"):
            Provider.latency_seconds = float(path.rpartition(b"/")[2]) / 1000
            self._write(b"{}")
        elif path == b"/transaction/initialize":
            reference = json.loads(body)["reference"]
            data = {
                "authorization_url": CHECKOUT + reference,
                "access_code": reference[-12:],
                "reference": reference,
            }
            answer = json.dumps({"status": True, "message": "Authorization URL created", "data": data}).encode()
            if self.latency_seconds:
                asyncio.get_running_loop().call_later(self.latency_seconds, self._write, answer)
            else:
                self._write(answer)
        else:
            self._write(b'{"status":false,"message":"Transaction reference not found","code":"transaction_not_found"}')

    def _write(self, body: bytes) -> None:
        if not self._transport.is_closing():
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            self._transport.write(head + body)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", port, backlog=1_024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
