"""`/health` says that the process lives; `/health/ready` whether what it needs answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from payflow import __version__
from payflow.core.errors import Unavailable
from payflow.web.problems import problem_responses

Check = Callable[[], Awaitable[None]]


class Live(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok", "version": "0.1.0"}]})

    status: Literal["ok"] = "ok"
    version: str


class CheckResult(BaseModel):
    status: Literal["up", "down"]
    detail: str | None = Field(default=None, description="Why it is down: a kind of error, never an address.")
    latency_ms: Annotated[float, Field(ge=0)]


class Readiness(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"status": "ready", "checks": {"database": {"status": "up", "detail": None, "latency_ms": 1.2}}}
            ]
        }
    )

    status: Literal["ready", "degraded"] = Field(description="degraded: something is down that can be done without.")
    checks: dict[str, CheckResult]


def health_router(
    checks: Mapping[str, Check], *, degraded_ok: Collection[str] = (), timeout_seconds: float = 2.0
) -> APIRouter:
    """`checks` raise when their part is away. Those named in `degraded_ok` (redis; the broker, while the spool takes
    over) make the answer `degraded` instead of 503."""
    router = APIRouter(tags=["health"])

    @router.get("/health", summary="Is the process alive?")
    async def live() -> Live:
        """Answers without asking any other part."""
        return Live(version=__version__)

    @router.get("/health/ready", summary="Is everything it needs there?", responses=problem_responses(503))
    async def ready() -> Readiness:
        """Asks PostgreSQL, Redis and the broker at once. 503 names what is down and cannot be done without."""
        results = dict(
            zip(checks, await asyncio.gather(*(_run(check, timeout_seconds) for check in checks.values())), strict=True)
        )
        down = [name for name, result in results.items() if result.status == "down"]
        fatal = [name for name in down if name not in degraded_ok]
        if fatal:
            raise Unavailable(
                f"Not ready: {', '.join(fatal)} down.",
                code="not_ready",
                retry_after=5,
                extra={"checks": {name: result.model_dump() for name, result in results.items()}},
            )
        return Readiness(status="degraded" if down else "ready", checks=results)

    return router


async def _run(check: Check, timeout_seconds: float) -> CheckResult:
    started = time.perf_counter()
    detail = None
    try:
        async with asyncio.timeout(timeout_seconds):
            await check()
    except TimeoutError:
        detail = f"no answer within {timeout_seconds:g} s"
    except Exception as error:
        # The name alone: messages of drivers quote addresses and sometimes passwords.
        detail = type(error).__name__
    elapsed = round((time.perf_counter() - started) * 1000, 1)
    return CheckResult(status="down" if detail else "up", detail=detail, latency_ms=elapsed)
