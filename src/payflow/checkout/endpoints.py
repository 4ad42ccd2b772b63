"""Where a customer's browser lands after a hosted page when the merchant gave no address of its own.

It says only what is known. A redirect proves nothing, so nothing is decided here, and whatever the provider adds to the
address is not believed: without the payment's own `client_token` the page knows only that somebody came back. With it the
page says how the payment stands in the books.
"""

from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Route

from payflow.core.clock import Clock
from payflow.infra.database import DatabaseAway
from payflow.transactions.aggregate import Transaction
from payflow.transactions.client_tokens import ClientTokens
from payflow.transactions.lifecycle import ENDED_UNPAID, Status
from payflow.transactions.repository import TransactionRepository

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Back from the payment page</title>
<style>
body {{ font: 1.1rem/1.5 system-ui, sans-serif; margin: 0; color: #1b1f24; background: #f6f7f9; }}
main {{ max-width: 34rem; margin: 12vh auto; padding: 2rem; background: #fff; border-radius: .75rem; }}
h1 {{ font-size: 1.4rem; margin-top: 0; }}
</style>
</head>
<body>
<main>
<h1>{heading}</h1>
<p>{text}</p>
<p>You can close this window.</p>
</main>
</body>
</html>
"""
_BACK = ("Thank you", "You are back from the payment page. The shop is told as soon as the payment is confirmed.")


def checkout_routes(transactions: TransactionRepository, client_tokens: ClientTokens, clock: Clock) -> list[BaseRoute]:
    """`GET /checkout/return`."""

    async def known(request: Request) -> Transaction | None:
        """The transaction of the token, if it is a good one and the address names no other."""
        identity = client_tokens.read(request.query_params.get("client_token", ""))
        if identity is None:
            return None
        try:
            found = await transactions.get(identity, None)
        except (DatabaseAway, TimeoutError):
            return None
        if found is None or not client_tokens.still_good(found[0].ended_at, clock()):
            return None
        return found[0] if request.query_params.get("reference", found[0].reference) == found[0].reference else None

    async def returned(request: Request) -> HTMLResponse:
        heading, text = _said(await known(request))
        page = _PAGE.format(heading=escape(heading), text=escape(text))
        return HTMLResponse(page, headers={"cache-control": "no-store"})

    return [Route("/checkout/return", returned, methods=["GET"])]


def _said(transaction: Transaction | None) -> tuple[str, str]:
    if transaction is None:
        return _BACK
    amount = f"{transaction.amount.decimal_text()} {transaction.amount.currency}"
    if transaction.status is Status.COMPLETED:
        return "Paid", f"Your payment of {amount} is confirmed."
    if transaction.status in ENDED_UNPAID:
        return "Not paid", f"Your payment of {amount} was not made, as far as we know. The shop can start a new one."
    return _BACK
