"""Where a customer's browser lands after a hosted page when the merchant gave no address of its own.

It says only what is known: that the provider sent the customer back. A redirect proves nothing, so nothing is decided here.
"""

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Route

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Back from the payment page</title>
<style>
body { font: 1.1rem/1.5 system-ui, sans-serif; margin: 0; color: #1b1f24; background: #f6f7f9; }
main { max-width: 34rem; margin: 12vh auto; padding: 2rem; background: #fff; border-radius: .75rem; }
h1 { font-size: 1.4rem; margin-top: 0; }
</style>
</head>
<body>
<main>
<h1>Thank you</h1>
<p>You are back from the payment page. The shop is told as soon as the payment is confirmed.</p>
<p>You can close this window.</p>
</main>
</body>
</html>
"""


def checkout_routes() -> list[BaseRoute]:
    """`GET /checkout/return`."""

    async def returned(request: Request) -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"cache-control": "no-store"})

    return [Route("/checkout/return", returned, methods=["GET"])]
