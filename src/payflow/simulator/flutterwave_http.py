"""What every call to Flutterwave's half shares: refusals, reading a body."""

from typing import Any

from starlette.requests import Request

from payflow.simulator import flutterwave_objects as shapes


class Refused(Exception):
    """Carries the answer of a call that is not accepted."""

    def __init__(self, status: int, message: str) -> None:
        self.response = shapes.error(status, message)


async def read_body(request: Request) -> dict[str, Any]:
    try:
        body = shapes.parsed(await request.body())
    except ValueError:
        raise Refused(400, "Invalid JSON in the request body") from None
    if not isinstance(body, dict):
        raise Refused(400, "Invalid JSON in the request body")
    return body


def require(body: dict[str, Any], *names: str) -> None:
    for name in names:
        if body.get(name) in (None, ""):
            raise Refused(400, f"{name} is required")


def read_amount(body: dict[str, Any], currency: str) -> int:
    amount = shapes.minor_units(body["amount"], currency)
    if amount is None:
        raise Refused(400, "amount is invalid")
    return amount
