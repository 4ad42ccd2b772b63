"""The hosted pages, where a person plays the customer. Plain HTML, nothing loaded from elsewhere."""

from html import escape
from urllib.parse import urlencode, urlsplit, urlunsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from payflow.simulator.flutterwave import Flutterwave
from payflow.simulator.moniepoint import Moniepoint
from payflow.simulator.paystack import Paystack
from payflow.simulator.standardbank_pay import StandardBankPay
from payflow.simulator.state import Charge, NoSuchCharge, NotPossible, Provider, Simulation
from payflow.simulator.stripe import Stripe
from payflow.simulator.stripe_objects import Intent, Session

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 1.05rem/1.5 system-ui, sans-serif; max-width: 30rem; margin: 3rem auto; padding: 0 1rem }}
body {{ color: #1a1a1a; background: #fff }}
dt {{ color: #555 }} dd {{ margin: 0 0 .75rem; font-weight: 600; overflow-wrap: anywhere }}
button {{ font: inherit; padding: .6rem 1.2rem; margin: 0 .5rem .5rem 0; cursor: pointer }}
button {{ border: 1px solid #1a1a1a; border-radius: .4rem; background: #fff; color: #1a1a1a }}
button[value=pay] {{ background: #0b5d1e; border-color: #0b5d1e; color: #fff }}
button:focus-visible {{ outline: 3px solid #1a5fb4; outline-offset: 2px }}
.note {{ padding: .6rem .8rem; border-left: 4px solid #1a5fb4; background: #eef4fb }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="note" role="status">{note}</p>
<dl>{rows}</dl>
{form}
</main>
</body>
</html>
"""
BUTTONS = """<form method="post" aria-label="Answer of the customer">
<button name="action" value="pay">Pay</button>
<button name="action" value="decline">Decline</button>
<button name="action" value="abandon">Abandon</button>
</form>"""
ACTIONS = {"pay": "pay", "decline": "decline", "abandon": "cancel"}
NOT_REAL = "This page belongs to the simulator. No money moves."


class Pages:
    def __init__(
        self,
        simulation: Simulation,
        paystack: Paystack,
        stripe: Stripe,
        standardbank_pay: StandardBankPay,
        moniepoint: Moniepoint,
        flutterwave: Flutterwave,
    ) -> None:
        self.simulation = simulation
        self.paystack = paystack
        self.stripe = stripe
        self.standardbank_pay = standardbank_pay
        self.moniepoint = moniepoint
        self.flutterwave = flutterwave

    def routes(self) -> list[Route]:
        return [
            Route("/paystack/{code}", self.show_paystack, methods=["GET"]),
            Route("/paystack/{code}", self.answer_paystack, methods=["POST"]),
            Route("/stripe/{id}", self.show_stripe, methods=["GET"]),
            Route("/stripe/{id}", self.answer_stripe, methods=["POST"]),
            Route("/standardbank_pay/{id}", self.standardbank_pay_page, methods=["GET", "POST"]),
            Route("/moniepoint/{reference}", self.show_moniepoint, methods=["GET"]),
            Route("/moniepoint/{reference}", self.answer_moniepoint, methods=["POST"]),
            Route("/flutterwave/{code}", self.show_flutterwave, methods=["GET"]),
            Route("/flutterwave/{code}", self.answer_flutterwave, methods=["POST"]),
        ]

    async def show_paystack(self, request: Request) -> Response:
        try:
            transaction = self.paystack.checkout(request.path_params["code"])
        except NoSuchCharge:
            return not_found()
        return page("Paystack checkout", transaction.charge, NOT_REAL)

    async def answer_paystack(self, request: Request) -> Response:
        try:
            transaction = self.paystack.checkout(request.path_params["code"])
        except NoSuchCharge:
            return not_found()
        charge, action = transaction.charge, await read_action(request)
        note = await self.act(self.paystack, charge, action)
        metadata = transaction.metadata if isinstance(transaction.metadata, dict) else {}
        if action == "cancel" and is_web(metadata.get("cancel_action")):
            return RedirectResponse(metadata["cancel_action"], 303)
        if charge.status == "paid" and transaction.callback_url:
            reference = {"trxref": charge.reference, "reference": charge.reference}
            return RedirectResponse(with_query(transaction.callback_url, reference), 303)
        return page("Paystack checkout", charge, note)

    async def show_stripe(self, request: Request) -> Response:
        try:
            target = self.stripe.checkout(request.path_params["id"])
        except NoSuchCharge:
            return not_found()
        return page("Stripe checkout", target.charge, NOT_REAL)

    async def answer_stripe(self, request: Request) -> Response:
        """Also the bank's page of a PaymentIntent that needs authentication."""
        try:
            target = self.stripe.checkout(request.path_params["id"])
        except NoSuchCharge:
            return not_found()
        action = await read_action(request)
        note = await self.act(self.stripe, target.charge, action)
        if isinstance(target, Session):
            back = (
                target.success_url if target.status == "complete" else target.cancel_url if action == "cancel" else None
            )
            if back:
                return RedirectResponse(back.replace("{CHECKOUT_SESSION_ID}", target.id), 303)
        elif target.return_url:
            return RedirectResponse(with_query(target.return_url, returned(target)), 303)
        return page("Stripe checkout", target.charge, note)

    async def standardbank_pay_page(self, request: Request) -> Response:
        """The order names no address to go back to, so the page stays. A decline is final there."""
        try:
            charge = self.standardbank_pay.checkout(request.path_params["id"]).charge
        except NoSuchCharge:
            return not_found()
        note = NOT_REAL
        if request.method == "POST" and charge.status != "pending":
            note = f"Nothing was changed: the payment is {charge.status}."
        elif request.method == "POST":
            note = await self.act(self.standardbank_pay, charge, await read_action(request))
            note = "Declined." if charge.status == "failed" else note
        return page("Standard Bank Pay approval", charge, note)

    async def show_moniepoint(self, request: Request) -> Response:
        try:
            transaction = self.moniepoint.checkout(request.path_params["reference"])
        except NoSuchCharge:
            return not_found()
        return page("Monnify checkout", transaction.charge, NOT_REAL)

    async def answer_moniepoint(self, request: Request) -> Response:
        try:
            transaction = self.moniepoint.checkout(request.path_params["reference"])
        except NoSuchCharge:
            return not_found()
        charge, action = transaction.charge, await read_action(request)
        note = await self.act(self.moniepoint, charge, action)
        if transaction.redirect_url and (charge.status == "paid" or action == "cancel"):
            return RedirectResponse(with_query(transaction.redirect_url, {"paymentReference": charge.reference}), 303)
        return page("Monnify checkout", charge, note)

    async def show_flutterwave(self, request: Request) -> Response:
        try:
            link = self.flutterwave.checkout(request.path_params["code"])
        except NoSuchCharge:
            return not_found()
        return page("Flutterwave checkout", link.charge, NOT_REAL)

    async def answer_flutterwave(self, request: Request) -> Response:
        """After a failure the page stays, so that the customer may try again."""
        try:
            link = self.flutterwave.checkout(request.path_params["code"])
        except NoSuchCharge:
            return not_found()
        charge, action = link.charge, await read_action(request)
        note = await self.act(self.flutterwave, charge, action)
        back = {"tx_ref": charge.reference}
        if charge.status == "paid":
            back = {"status": "successful", **back, "transaction_id": str(link.tries[-1].id)}
            return RedirectResponse(with_query(link.redirect_url, back), 303)
        if action == "cancel":
            return RedirectResponse(with_query(link.redirect_url, {"status": "cancelled", **back}), 303)
        return page("Flutterwave checkout", charge, note)

    async def act(self, provider: Provider, charge: Charge, action: str | None) -> str:
        """The webhook is on its way, not waited for: redirect and webhook race each other as in real life."""
        if action is None:
            return "Choose one of the buttons."
        if charge.customer is not None:
            charge.customer.cancel()
        try:
            provider.act(charge, action)
        except NotPossible as error:
            return f"Nothing was changed: {error}."
        return {"pay": "Paid.", "decline": "The card was declined. You may try again."}.get(action, "Abandoned.")


async def read_action(request: Request) -> str | None:
    async with request.form() as form:
        return ACTIONS.get(str(form.get("action")))


def page(title: str, charge: Charge, note: str, status: int = 200) -> Response:
    rows = {
        "Reference": charge.reference,
        "Amount in minor units": f"{charge.amount} {charge.currency}",
        "State": charge.status,
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items())
    form = "" if charge.status in ("paid", "expired") else BUTTONS
    return HTMLResponse(PAGE.format(title=escape(title), note=escape(note), rows=listed, form=form), status)


def not_found() -> Response:
    return HTMLResponse(PAGE.format(title="Not found", note="No such checkout.", rows="", form=""), 404)


def returned(intent: Intent) -> dict[str, str]:
    return {
        "payment_intent": intent.id,
        "payment_intent_client_secret": intent.client_secret,
        "redirect_status": "succeeded" if intent.status == "succeeded" else "failed",
    }


def is_web(url: object) -> bool:
    return isinstance(url, str) and url.startswith(("http://", "https://"))


def with_query(url: str, values: dict[str, str]) -> str:
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode(values))))
    return urlunsplit(parts._replace(query=query))
