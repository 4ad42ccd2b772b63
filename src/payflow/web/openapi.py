"""What FastAPI leaves out of its OpenAPI document: it drops every null, also those of examples, which then miss members."""

from collections.abc import Iterator
from typing import Any


def restore_nulls(document: dict[str, Any]) -> None:
    """Give the examples back the null members that their schemas require."""
    for schema, example in _shown(document):
        _restore(example, schema, document)


def _shown(value: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every example with the schema that it belongs to."""
    if isinstance(value, dict):
        examples = value.get("examples")
        if isinstance(examples, list):  # a schema
            yield from ((value, example) for example in examples)
        elif "schema" in value:  # a media type, or a parameter
            named = [item.get("value") for item in (examples or {}).values()]
            yield from ((value["schema"], example) for example in [*named, value.get("example")])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _shown(item)


def _restore(example: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    schema = _resolved(schema, document)
    if isinstance(example, list):
        for item in example:
            _restore(item, schema.get("items", {}), document)
    if not isinstance(example, dict):
        return
    for alternative in schema.get("anyOf", ()):
        _restore(example, alternative, document)
    required = schema.get("required", ())
    for name, member in schema.get("properties", {}).items():
        if name in example:
            _restore(example[name], member, document)
        elif name in required and _may_be_null(member):
            example[name] = None


def _may_be_null(schema: dict[str, Any]) -> bool:
    return any(alternative.get("type") == "null" for alternative in schema.get("anyOf", ()))


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema
