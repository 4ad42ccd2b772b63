import asyncio
import re

import pytest
import structlog
from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CollectorRegistry

from payflow import __version__
from payflow.web.health import Check, health_router
from tests.web.conftest import MakeApp, MakeClient

TOKEN = "0123456789abcdef" * 4


async def up() -> None: ...


async def down() -> None:
    raise ConnectionRefusedError("postgresql://payflow:hunter2@db:5432 refused")


def healthy(checks: dict[str, Check], **options: object):
    def routes(app: FastAPI) -> None:
        app.include_router(health_router(checks, **options), prefix="/api/v1")  # type: ignore[arg-type]

    return routes


async def test_a_living_process_says_so_whatever_is_down(make_app: MakeApp, client_of: MakeClient) -> None:
    answer = await client_of(make_app(healthy({"database": down}))).get("/api/v1/health")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "version": __version__})


async def test_ready_when_every_check_passes(make_app: MakeApp, client_of: MakeClient) -> None:
    answer = await client_of(make_app(healthy({"database": up, "redis": up}))).get("/api/v1/health/ready")

    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert {name: check["status"] for name, check in answer.json()["checks"].items()} == {
        "database": "up",
        "redis": "up",
    }


async def test_not_ready_names_what_is_down_and_leaks_no_address(make_app: MakeApp, client_of: MakeClient) -> None:
    answer = await client_of(make_app(healthy({"database": down, "redis": up}))).get("/api/v1/health/ready")

    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.json()["detail"] == "Not ready: database down."
    assert answer.json()["checks"]["database"]["detail"] == "ConnectionRefusedError"
    assert answer.json()["checks"]["redis"]["status"] == "up"
    assert answer.headers["retry-after"] == "5"
    assert "hunter2" not in answer.text


async def test_what_can_be_done_without_only_degrades(make_app: MakeApp, client_of: MakeClient) -> None:
    routes = healthy({"database": up, "broker": down}, degraded_ok=("broker",))
    answer = await client_of(make_app(routes)).get("/api/v1/health/ready")

    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["checks"]["broker"]["status"] == "down"


async def test_checks_run_together_and_each_has_an_end(make_app: MakeApp, client_of: MakeClient) -> None:
    together, met = asyncio.Barrier(3), []

    async def hanging() -> None:
        met.append(await together.wait())  # comes back only where all three have begun
        await asyncio.sleep(60)

    routes = healthy({"a": hanging, "b": hanging, "c": hanging}, timeout_seconds=0.5)
    answer = await client_of(make_app(routes)).get("/api/v1/health/ready")

    assert len(met) == 3
    assert answer.json()["detail"] == "Not ready: a, b, c down."
    assert answer.json()["checks"]["a"]["detail"] == "no answer within 0.5 s"


@pytest.mark.parametrize("path", ["/docs", "/api/v1/docs", "/redoc"])
async def test_the_docs_need_no_foreign_host(make_app: MakeApp, client_of: MakeClient, path: str) -> None:
    client = client_of(make_app())
    page = await client.get(path)

    assert page.status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert re.search(r"<title>PayFlow: API \w+</title>", page.text)
    assert '<html lang="en">' in page.text
    assert "script-src 'self';" in page.headers["content-security-policy"]
    for address in re.findall(r'(?:src|href|spec-url)="([^"]+)"', page.text):
        linked = await client.get(address)
        assert linked.status_code == 200, address
        assert linked.content


async def test_the_docs_work_behind_a_prefix(make_app: MakeApp, client_of: MakeClient) -> None:
    app = make_app()
    app.root_path = "/pay"
    page = await client_of(app).get("/pay/redoc")

    assert 'spec-url="/pay/openapi.json"' in page.text
    assert 'src="/pay/docs/assets/redoc.standalone.js"' in page.text


async def test_metrics_are_labelled_by_template_and_never_by_path(make_app: MakeApp, client_of: MakeClient) -> None:
    def routes(app: FastAPI) -> None:
        router = APIRouter(prefix="/webhooks")

        @router.post("/{provider}/{token}")
        async def hook(provider: str, token: str) -> None: ...

        @router.get("/boom")
        async def boom() -> None:
            raise RuntimeError

        async def thin(request: Request) -> None:
            raise RuntimeError

        router.add_route("/webhooks/thin/{name}/raw", thin, methods=["POST"])
        app.include_router(router, prefix="/api/v1")

    registry = CollectorRegistry()
    client = client_of(make_app(routes, registry=registry))
    await client.post(f"/api/v1/webhooks/lipa/{TOKEN}")
    await client.post(f"/api/v1/webhooks/lipa/{TOKEN[::-1]}")
    with structlog.testing.capture_logs():
        await client.get("/api/v1/webhooks/boom")
        await client.post("/api/v1/webhooks/thin/x/raw")
    await client.get(f"/nowhere/{TOKEN}")
    await client.request("BREW", "/api/v1/webhooks/boom")

    def count(method: str, handler: str, status: str) -> float | None:
        labels = {"method": method, "handler": handler, "status": status}
        return registry.get_sample_value("payflow_http_requests_total", labels)

    assert count("POST", "/api/v1/webhooks/{provider}/{token}", "200") == 2.0
    assert count("GET", "/api/v1/webhooks/boom", "500") == 1.0
    assert count("POST", "/api/v1/webhooks/thin/{name}/raw", "500") == 1.0
    assert count("GET", "none", "404") == 1.0
    assert count("other", "/api/v1/webhooks/boom", "405") == 1.0
    assert TOKEN not in (await client.get("/metrics")).text


async def test_two_applications_count_apart(make_app: MakeApp, client_of: MakeClient) -> None:
    first, second = client_of(make_app()), client_of(make_app())
    await first.get("/nowhere")

    assert 'payflow_http_requests_total{handler="none"' in (await first.get("/metrics")).text
    assert 'payflow_http_requests_total{handler="none"' not in (await second.get("/metrics")).text
