import json
import re
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.websockets import WebSocket

from payflow.core.logging import correlation_id
from payflow.web.middleware import DEFAULT_PAGE_POLICY, client_address_reader
from tests.web.conftest import MakeApp, MakeClient

TOKEN = "0123456789abcdef" * 4
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


async def _thin(request: Request) -> JSONResponse:
    return JSONResponse({"bytes": len(await request.body())})


def routes(app: FastAPI) -> None:
    @app.get("/context")
    async def context(request: Request) -> dict[str, str]:
        return {
            "correlation_id": correlation_id.get(),
            "request_id": request.state.request_id,
            "client_address": request.state.client_address,
        }

    @app.post("/json")
    async def takes_json(body: dict[str, str]) -> int:
        return sum(map(len, body.values()))

    @app.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse("<p>")

    @app.get("/own-policy")
    async def own_policy() -> HTMLResponse:
        return HTMLResponse("<p>", headers={"Content-Security-Policy": "default-src 'self'"})

    @app.get("/hooks/{token}")
    async def hook(token: str) -> None: ...

    app.add_route("/thin", _thin, methods=["POST"])


@pytest.mark.parametrize("given", ["a", "Order_7.retry-2", "x" * 128])
async def test_a_sane_request_id_is_taken_and_echoed(make_app: MakeApp, client_of: MakeClient, given: str) -> None:
    answer = await client_of(make_app(routes)).get("/context", headers={"Request-Id": given})

    assert answer.headers["request-id"] == given
    assert answer.json()["correlation_id"] == given
    assert answer.json()["request_id"] == given
    assert correlation_id.get() == ""


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\tb", 'a"b', "é", "{}"])
async def test_any_other_request_id_is_replaced_by_a_new_one(
    make_app: MakeApp, client_of: MakeClient, given: str | None
) -> None:
    headers = {} if given is None else {"Request-Id": given.encode()}
    answer = await client_of(make_app(routes)).get("/context", headers=headers)

    assert UUID7.fullmatch(answer.headers["request-id"])
    assert answer.json()["correlation_id"] == answer.headers["request-id"]


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "expected"),
    [
        ((), "198.51.100.7", ["203.0.113.9"], "198.51.100.7"),
        (("10.0.0.0/8",), "198.51.100.7", ["203.0.113.9"], "198.51.100.7"),
        (("10.0.0.0/8",), "10.0.0.1", [], "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        (("10.0.0.0/8",), "10.0.0.1", ["1.2.3.4, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        (("10.0.0.0/8",), "10.0.0.1", ["1.2.3.4", "203.0.113.9"], "203.0.113.9"),
        (("10.0.0.1",), "10.0.0.1", ["203.0.113.9:5000"], "203.0.113.9"),
        (("10.0.0.1",), "10.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        (("10.0.0.1",), "10.0.0.1", ["2001:DB8::1"], "2001:db8::1"),
        (("10.0.0.1",), "10.0.0.1", ["unknown"], "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ((), "::ffff:198.51.100.7", [], "198.51.100.7"),
        (("10.0.0.0/8",), "::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        (("::1/128", "fd00::/8"), "::1", ["2001:db8::5, fd00::2"], "2001:db8::5"),
    ],
)
def test_forwarded_addresses_count_only_as_far_as_trusted_proxies_vouch(
    proxies: tuple[str, ...], peer: str, forwarded: list[str], expected: str
) -> None:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]

    assert client_address_reader(proxies)({"client": (peer, 1), "headers": headers}) == expected


async def test_the_underscore_spelling_of_the_header_is_not_believed(make_app: MakeApp, client_of: MakeClient) -> None:
    app = make_app(routes, trusted_proxies=("10.0.0.0/8",))
    answer = await client_of(app, peer="10.0.0.1").get("/context", headers={"X_FORWARDED_FOR": "9.9.9.9"})

    assert answer.json()["client_address"] == "10.0.0.1"


async def test_a_socket_has_the_same_context(make_app: MakeApp) -> None:
    def socket(app: FastAPI) -> None:
        @app.websocket("/ws")
        async def ws(socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_text(f"{correlation_id.get()} {socket.state.client_address}")

    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {"type": "websocket.connect"}

    scope = {
        "type": "websocket",
        "path": "/ws",
        "raw_path": b"/ws",
        "query_string": b"",
        "headers": [(b"request-id", b"socket-1")],
        "client": ("198.51.100.7", 1),
        "server": ("payflow.test", 80),
        "scheme": "ws",
        "root_path": "",
        "subprotocols": [],
    }
    await make_app(socket)(scope, receive, send)

    assert (b"request-id", b"socket-1") in sent[0]["headers"]
    assert sent[1]["text"] == "socket-1 198.51.100.7"


@pytest.mark.parametrize("path", ["/json", "/thin"])
async def test_a_body_up_to_the_limit_is_taken_and_one_more_byte_refused(
    make_app: MakeApp, client_of: MakeClient, path: str
) -> None:
    client = client_of(make_app(routes, max_body_bytes=100))
    fitting = json.dumps({"a": "x" * (100 - len('{"a": ""}'))}).encode()
    headers = {"content-type": "application/json"}

    assert len(fitting) == 100
    assert (await client.post(path, content=fitting, headers=headers)).status_code == 200
    refused = await client.post(path, content=fitting + b" ", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["request-id"] == refused.json()["request_id"]


@pytest.mark.parametrize("path", ["/json", "/thin"])
async def test_a_chunked_body_is_counted(make_app: MakeApp, client_of: MakeClient, path: str) -> None:
    sent = 0

    async def chunks(count: int) -> AsyncIterator[bytes]:
        nonlocal sent
        for chunk in [b'{"a": "', *[b"x" * 10] * count, b'"}']:
            sent += 1
            yield chunk

    client = client_of(make_app(routes, max_body_bytes=100))
    headers = {"content-type": "application/json"}
    assert (await client.post(path, content=chunks(9), headers=headers)).status_code == 200
    sent = 0
    refused = await client.post(path, content=chunks(1000), headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    assert sent < 20


@pytest.mark.parametrize("length", [b"-1", b"+5", b"abc"])
async def test_a_length_that_is_no_number_does_not_lift_the_limit(make_app: MakeApp, length: bytes) -> None:
    messages = [{"type": "http.request", "body": b"x" * 200, "more_body": False}]
    statuses: list[int] = []

    async def receive() -> dict:
        return messages.pop(0)

    async def send(message: dict) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/thin",
        "raw_path": b"/thin",
        "query_string": b"",
        "headers": [(b"content-length", length)],
        "client": ("198.51.100.7", 1),
        "server": ("payflow.test", 80),
        "scheme": "http",
        "root_path": "",
    }
    await make_app(routes, max_body_bytes=100)(scope, receive, send)

    assert statuses == [413]


async def test_every_answer_is_nosniff_and_only_pages_carry_a_content_policy(
    make_app: MakeApp, client_of: MakeClient
) -> None:
    client = client_of(make_app(routes))
    page, own, api, missing = [await client.get(path) for path in ("/page", "/own-policy", "/context", "/nowhere")]

    for answer in (page, own, api, missing):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert page.headers["content-security-policy"] == DEFAULT_PAGE_POLICY
    assert own.headers["content-security-policy"] == "default-src 'self'"
    assert "content-security-policy" not in api.headers
    assert "content-security-policy" not in missing.headers


async def test_the_access_line_holds_no_query_and_no_token(
    make_app: MakeApp, client_of: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    await client_of(make_app(routes)).get(f"/hooks/{TOKEN}?ticket=hush", headers={"Request-Id": "r1"})

    line = json.loads(capsys.readouterr().err)
    assert line.pop("ms") >= 0
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request",
        "method": "GET",
        "path": "/hooks/[redacted]",
        "status": 200,
        "client": "198.51.100.7",
        "correlation_id": "r1",
        "level": "info",
    }


async def test_polled_paths_and_quiet_levels_write_no_access_line(
    make_app: MakeApp, client_of: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    await client_of(make_app(routes)).get("/metrics")
    await client_of(make_app(routes, log_level="WARNING")).get("/context")

    assert capsys.readouterr().err == ""


async def test_cors_answers_only_the_origins_of_the_setting(make_app: MakeApp, client_of: MakeClient) -> None:
    ours, other = {"Origin": "https://shop.example"}, {"Origin": "https://evil.example"}
    without = await client_of(make_app(routes)).get("/context", headers=ours)
    client = client_of(make_app(routes, cors_origins=("https://shop.example",)))
    allowed, refused = await client.get("/context", headers=ours), await client.get("/context", headers=other)
    preflight = await client.options(
        "/json",
        headers={**ours, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Idempotency-Key"},
    )

    assert "access-control-allow-origin" not in without.headers
    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
    assert "RateLimit" in allowed.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in refused.headers
    assert preflight.status_code == 200
    assert "access-control-allow-credentials" not in allowed.headers
