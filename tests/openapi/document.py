"""The OpenAPI document as the application writes it; no server is needed for that."""

from functools import cache
from typing import Any

from fastapi import FastAPI
from pydantic import SecretStr

from payflow.bootstrap import build_services
from payflow.core.settings import Settings
from payflow.main import create_app
from tests.house import SECRET

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def application() -> FastAPI:
    """The application with servers that are nowhere: good for what needs none."""
    settings = Settings(
        _env_file=None,
        environment="test",
        secret_key=SecretStr(SECRET),
        database_url="postgresql+asyncpg://nobody@127.0.0.1:9/none",
        redis_url="redis://127.0.0.1:9/0",
        amqp_url="amqp://127.0.0.1:9/",
    )
    return create_app(build_services(settings))


@cache
def document() -> dict[str, Any]:
    return dict(application().openapi())


@cache
def operations() -> dict[str, dict[str, Any]]:
    """Every operation by its label, as in `POST /api/v1/payments/initialize`."""
    return {
        f"{method.upper()} {path}": item[method]
        for path, item in document()["paths"].items()
        for method in METHODS
        if method in item
    }


def as_documented(events: list[dict[str, Any]]) -> bool:
    """Whether each event tells at least what the document shows of its type."""
    shown = [document()["webhooks"][event["type"]]["post"] for event in events]
    media = [event["requestBody"]["content"]["application/json"] for event in shown]
    return all(
        event["data"].keys() >= examples(each)[0]["data"].keys() for event, each in zip(events, media, strict=True)
    )


def resolve(value: dict[str, Any]) -> dict[str, Any]:
    """Follow a `$ref` into the components."""
    while "$ref" in value:
        found: Any = document()
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        value = found
    return value


def examples(media: dict[str, Any]) -> list[Any]:
    """What a media type shows: its own examples, or else those of its schema."""
    if "example" in media:
        return [media["example"]]
    if "examples" in media:
        return [resolve(example)["value"] for example in media["examples"].values()]
    schema = resolve(media.get("schema", {}))
    return list(schema.get("examples", ())) or ([schema["example"]] if "example" in schema else [])
