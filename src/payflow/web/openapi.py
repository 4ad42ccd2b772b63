"""What becomes of examples on their way through FastAPI and pydantic, undone.

FastAPI drops every null of its document, so that examples miss members their schemas require; pydantic sorts their members
by the alphabet, so that a payment begins with its amount.
"""

from collections.abc import Iterator
from typing import Any


def mend_examples(document: dict[str, Any]) -> None:
    """Give the examples back the null members that their schemas require, and the order of the schema."""
    for schema, example in _shown(document):
        _mend(example, schema, document)


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


def _mend(example: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    schema = _resolved(schema, document)
    if isinstance(example, list):
        for item in example:
            _mend(item, schema.get("items", {}), document)
    if not isinstance(example, dict):
        return
    for alternative in schema.get("anyOf", ()):
        _mend(example, alternative, document)
    required = schema.get("required", ())
    given = dict(example)
    example.clear()
    for name, member in schema.get("properties", {}).items():
        if name in given:
            example[name] = given.pop(name)
            _mend(example[name], member, document)
        elif name in required and _may_be_null(member):
            example[name] = None
    example.update(given)


def _may_be_null(schema: dict[str, Any]) -> bool:
    return any(alternative.get("type") == "null" for alternative in schema.get("anyOf", ()))


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema
