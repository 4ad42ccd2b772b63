"""How Paystack reads a request, refuses one, and pages a list."""

import re
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from payflow.simulator import paystack_objects as shapes

INT64_DIGITS = 18


class Refused(Exception):
    """Carries the answer of a call that is not accepted."""

    def __init__(self, response: Response) -> None:
        self.response = response


async def read_body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        async with request.form() as form:
            return {name: value for name, value in form.items() if isinstance(value, str)}
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise invalid("Invalid JSON in the request body") from None
    if not isinstance(body, dict):
        raise invalid("Invalid JSON in the request body")
    return body


def read_amount(value: Any) -> int:
    """`100`, `"100"` and `100.0` are taken, `100.5` is not; seen on the real test API."""
    if value is None or value == "":
        raise missing("Amount is required")
    text = str(value).strip().removesuffix(".0")
    if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,15}", text):
        raise invalid('"amount" must be an integer')
    if int(text) <= 0:
        raise invalid("Invalid Amount Sent")
    return int(text)


def echoed_metadata(given: Any) -> Any:
    """Merchants may send an object or its JSON text; nothing comes back as empty text."""
    if isinstance(given, str):
        try:
            parsed = orjson.loads(given)
        except orjson.JSONDecodeError:
            return given
        return parsed if isinstance(parsed, dict) else given
    return "" if given is None else given


def paged(rows: list[Any], per_page: str | None, page: str | None) -> tuple[list[Any], dict[str, int]]:
    size = int(per_page) if per_page and per_page.isdecimal() and int(per_page) > 0 else 50
    number = int(page) if page and page.isdecimal() and int(page) > 0 else 1
    start = (number - 1) * size
    pages = -(-len(rows) // size)
    meta = {"total": len(rows), "skipped": start, "perPage": size, "page": number, "pageCount": pages}
    return rows[start : start + size], meta


def number(text: str) -> int:
    """An id out of a path or body; 0, which nothing has, when it cannot be one."""
    return int(text) if text.isdecimal() and len(text) <= INT64_DIGITS else 0


def missing(message: str) -> Refused:
    return Refused(shapes.refusal(400, message, "missing_params", "Ensure that you provide all required fields"))


def invalid(message: str) -> Refused:
    return Refused(shapes.refusal(400, message, "invalid_params", "Ensure that the value(s) you're passing are valid"))
