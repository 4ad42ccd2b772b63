"""Disputes: a bank takes the money back, or only asks first (an inquiry), and in the end the merchant wins or loses."""

import asyncio

from payflow.simulator import stripe_objects as shapes
from payflow.simulator.state import Charge, NotPossible
from payflow.simulator.stripe_lifecycle import Lifecycle, Told
from payflow.simulator.stripe_objects import CardCharge, Dispute, new_id

ASKED, CONTESTED = "warning_needs_response", "needs_response"


class Disputes:
    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle = lifecycle

    def act(self, charge: Charge, action: str) -> asyncio.Task[None] | None:
        """`dispute` a payment, a part of it (`dispute_part`) or ask first (`dispute_inquiry`, then `dispute_escalate`);
        `dispute_win`, `dispute_lose` or `dispute_close` the newest one."""
        match action:
            case "dispute" | "dispute_part" | "dispute_inquiry":
                card = self.paid(charge)
                part = max(card.amount_captured // 4, 1) if action == "dispute_part" else card.amount_captured
                return self.open(card, part, ASKED if action == "dispute_inquiry" else CONTESTED)
            case "dispute_escalate":
                return self.escalate(self.newest(charge))
            case "dispute_win":
                return self.close(self.newest(charge), "won")
            case "dispute_lose" | "dispute_close":
                return self.close(self.newest(charge), "lost")
            case _:
                raise NotPossible(f"a dispute knows no {action!r}")

    def paid(self, charge: Charge) -> CardCharge:
        for card in self.lifecycle.cards.values():
            if card.intent.charge is charge and card.amount_captured > 0:
                return card
        raise NotPossible("nothing was paid")

    def newest(self, charge: Charge) -> Dispute:
        for dispute in reversed(self.lifecycle.disputes.values()):
            if dispute.card.intent.charge is charge:
                return dispute
        raise NotPossible("nothing is disputed")

    def open(self, card: CardCharge, amount: int, status: str) -> asyncio.Task[None] | None:
        lifecycle = self.lifecycle
        dispute = Dispute(new_id("dp"), card, amount, lifecycle.now(), status)
        lifecycle.disputes[dispute.id] = dispute
        card.disputed = True
        shown = shapes.show_dispute(dispute)
        told: list[Told] = [("charge.dispute.created", shown, None)]
        if status == CONTESTED:
            told.append(("charge.dispute.funds_withdrawn", shown, None))
        return lifecycle.tell(card.intent.charge, told)

    def escalate(self, dispute: Dispute) -> asyncio.Task[None] | None:
        if dispute.status != ASKED:
            raise NotPossible(f"the dispute is {dispute.status}")
        dispute.status = CONTESTED
        shown = shapes.show_dispute(dispute)
        told: list[Told] = [
            ("charge.dispute.updated", shown, {"status": ASKED}),
            ("charge.dispute.funds_withdrawn", shown, None),
        ]
        return self.lifecycle.tell(dispute.card.intent.charge, told)

    def close(self, dispute: Dispute, status: str) -> asyncio.Task[None] | None:
        """An inquiry has neither winner nor loser."""
        if dispute.status not in (ASKED, CONTESTED):
            raise NotPossible(f"the dispute is {dispute.status}")
        charge = dispute.card.intent.charge
        dispute.status = "warning_closed" if dispute.status == ASKED else status
        shown = shapes.show_dispute(dispute)
        told: list[Told] = [("charge.dispute.closed", shown, None)]
        if dispute.status == "won":
            told.append(("charge.dispute.funds_reinstated", shown, None))
        if dispute.status == "lost":
            charge.money_taken -= dispute.amount
        return self.lifecycle.tell(charge, told)
