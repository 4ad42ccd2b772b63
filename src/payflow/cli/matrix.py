"""`payflow support-matrix`: what each provider of this source can do, from its declaration and the protocols it implements."""

import ast
import inspect
import sys
from collections.abc import Iterable
from typing import Any

from payflow.gateway.contract import (
    AnswersValidation,
    Cancels,
    Collects,
    Declaration,
    ListsBanks,
    PaysOut,
    ReceivesWebhooks,
    Refunds,
    RegistersUrls,
    SellsAirtime,
    TakesOtp,
    Trust,
)

CAPABILITIES: tuple[tuple[str, type], ...] = (
    ("collects", Collects),
    ("cancels", Cancels),
    ("takes codes", TakesOtp),
    ("refunds", Refunds),
    ("pays out", PaysOut),
    ("lists banks", ListsBanks),
    ("sells airtime", SellsAirtime),
    ("webhooks", ReceivesWebhooks),
    ("answers validations", AnswersValidation),
    ("registers addresses", RegistersUrls),
)
TRUST = {
    Trust.SIGNED: "signed",
    Trust.CONFIRM: "a hint: the provider is asked",
    Trust.CAPABILITY: "unguessable address",
}
MANY_CURRENCIES = 20
INTRODUCTION = """\
# What each provider can do

Written by `payflow support-matrix --write`, from the adapters' declarations and the protocols they implement; do not edit
it. A test compares it with the code. It says what the adapter can do, not what your account with the provider may do.
What the README says of them in words is [there](../README.md#providers); how to add one is in
[providers.md](providers.md).
"""


def support_matrix(classes: Iterable[Any]) -> str:
    """The page `docs/support-matrix.md`."""
    providers = sorted(classes, key=lambda kind: (kind.declaration.simulated, kind.declaration.title.lower()))
    lines = [
        INTRODUCTION,
        "## Capabilities\n",
        *_table(
            ["provider", *(name for name, _ in CAPABILITIES)],
            (
                [_title(kind.declaration), *(_mark(kind, capability) for _, capability in CAPABILITIES)]
                for kind in providers
            ),
        ),
        "\n## Where and how\n",
        *_table(
            ["provider", "name in the API", "currencies", "countries", "methods", "charges a card's number"],
            (_reach(kind.declaration) for kind in providers),
        ),
        "\n## Webhooks and refunds\n",
        *_table(
            ["provider", "webhook address", "believed because", "without refunds"],
            (_trust(kind) for kind in providers),
        ),
    ]
    return "\n".join(lines) + "\n"


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _title(declaration: Declaration) -> str:
    return declaration.title + (" (simulated: no public API is known)" if declaration.simulated else "")


def _mark(kind: Any, capability: type) -> str:
    return "yes" if issubclass(kind, capability) else "·"


def _reach(declaration: Declaration) -> list[str]:
    currencies = sorted(declaration.currencies)
    shown = " ".join(currencies) if len(currencies) <= MANY_CURRENCIES else _folded(currencies)
    countries = " ".join(sorted(declaration.countries))
    methods = " ".join(f"`{method}`" for method in sorted(declaration.methods))
    cards = "if switched on" if declaration.card_details else "·"
    return [declaration.title, f"`{declaration.name}`", shown or "·", countries or "·", methods or "·", cards]


def _folded(currencies: list[str]) -> str:
    """A cell that stays short until it is opened."""
    return f"<details><summary>{len(currencies)} currencies</summary>{' '.join(currencies)}</details>"


def _trust(kind: Any) -> list[str]:
    declaration = kind.declaration
    path = f"`/api/v1/webhooks/{declaration.path_name}{'/{token}' if declaration.webhook_token else ''}`"
    if not issubclass(kind, ReceivesWebhooks):
        return [declaration.title, "·", "·", _alternative(kind)]
    named = _trusts_named(kind)
    reasons = "; ".join(words for trust, words in TRUST.items() if trust.name in named)
    return [declaration.title, path, reasons, _alternative(kind)]


def _trusts_named(kind: Any) -> set[str]:
    """Trust is declared event by event, where the adapter reads them: so its source is what names them all."""
    return {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(sys.modules[kind.__module__])))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == Trust.__name__
    }


def _alternative(kind: Any) -> str:
    if issubclass(kind, Refunds):
        return "·"
    return kind.declaration.refund_alternative or "refund at the provider"
