"""Where a customer's browser lands after a hosted page when the merchant gave no address of its own.

It says only what is known. A redirect proves nothing, so nothing is decided here, and whatever the provider adds to the
address is not believed: without the payment's own token the page knows only that somebody came back. With it the page says
how the payment stands in the books. The address that we give to the provider has a return token (`payment`); a shop may
send its customers here with their `client_token`.
"""

from base64 import b64encode
from hashlib import sha256
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Route

from payflow.core.clock import Clock
from payflow.infra.database import DatabaseAway
from payflow.transactions.aggregate import Transaction
from payflow.transactions.client_tokens import ClientTokens
from payflow.transactions.lifecycle import ENDED_UNPAID, OPEN, Status
from payflow.transactions.repository import TransactionRepository

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ground: #f6f7f9; --ink: #1b1f24; }
@media (prefers-color-scheme: dark) { :root { --paper: #22262c; --ground: #16191d; --ink: #e8eaed; } }
body { font: 1.1rem/1.5 system-ui, sans-serif; margin: 0; padding: 1rem; color: var(--ink); background: var(--ground); }
main { max-width: 34rem; margin: 12vh auto; padding: 2rem; background: var(--paper); border-radius: .75rem; }
h1 { font-size: 1.4rem; margin-top: 0; }
"""
# The style is part of the page and named by its hash, so that nothing else of the page may style or run.
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'"
)
_HEADERS = {"cache-control": "no-store", "content-security-policy": _POLICY}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading} – back from the payment page</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{heading}</h1>
<p>{text}</p>
{last}
</main>
</body>
</html>
"""
_BACK = ("Thank you", "You are back from the payment page. The shop is told as soon as the payment is confirmed.")
_CLOSE = "<p>You can close this window.</p>"
_AGAIN = '<p><a href="">Look again</a>, or close this window: the shop is told in any case.</p>'


def checkout_routes(transactions: TransactionRepository, client_tokens: ClientTokens, clock: Clock) -> list[BaseRoute]:
    """`GET /checkout/return`."""

    async def known(request: Request) -> Transaction | None:
        """The transaction of the token, if it is a good one and the address names no other."""
        asked = request.query_params
        identity = client_tokens.read_return(asked.get("payment", "")) or client_tokens.read(
            asked.get("client_token", "")
        )
        if identity is None:
            return None
        try:
            found = await transactions.get(identity, None)
        except (DatabaseAway, TimeoutError):
            return None
        if found is None or not client_tokens.still_good(found[0].ended_at, clock()):
            return None
        names = {found[0].reference, *(attempt.reference for attempt in found[1])}
        return found[0] if asked.get("reference", found[0].reference) in names else None

    async def returned(request: Request) -> HTMLResponse:
        transaction = await known(request)
        heading, text = _said(transaction)
        last = _AGAIN if transaction is not None and transaction.status in OPEN else _CLOSE
        page = _PAGE.format(heading=escape(heading), text=escape(text), last=last, style=_STYLE)
        return HTMLResponse(page, headers=_HEADERS)

    return [Route("/checkout/return", returned, methods=["GET"])]


def _said(transaction: Transaction | None) -> tuple[str, str]:
    if transaction is None:
        return _BACK
    amount = f"{transaction.amount.decimal_text()} {transaction.amount.currency}"
    if transaction.status is Status.COMPLETED:
        return "Paid", f"Your payment of {amount} is confirmed."
    if transaction.status is Status.REFUNDED:
        return "Given back", f"Your payment of {amount} was given back."
    if transaction.status in ENDED_UNPAID:
        return "Not paid", f"Your payment of {amount} was not made, as far as we know. The shop can start a new one."
    if transaction.status in OPEN:
        return "Thank you", f"Your payment of {amount} is not confirmed yet. That can take some minutes."
    return _BACK
