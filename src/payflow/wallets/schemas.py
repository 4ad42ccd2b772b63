"""The bodies of the wallet endpoints."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from payflow.transactions.schemas import Currency
from payflow.web.schemas import TRIMMED_TEXT, Moment, RequestModel

MAX_PAGE = 10_000

WALLET = {
    "currency": "NGN",
    "available": "12500.00",
    "available_minor": 1_250_000,
    "held": "2000.00",
    "held_minor": 200_000,
    "status": "active",
    "status_reason": None,
    "created_at": "2026-11-21T10:00:00Z",
}
ENTRY = {
    "id": "48213",
    "type": "funding",
    "amount": "5000.00",
    "amount_minor": 500_000,
    "balance": "12500.00",
    "balance_minor": 1_250_000,
    "currency": "NGN",
    "transaction_id": "0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50",
    "transaction_kind": "funding",
    "reference": "pay01m7yqggjzfs1a3vfakgqbn0x5",
    "provider": "paystack",
    "description": "Top-up",
    "created_at": "2026-11-21T10:00:07Z",
}
CSV_EXAMPLE = (
    "entry_id,time,type,amount,balance,currency,transaction_kind,reference,provider,description\r\n"
    "48213,2026-11-21T10:00:07Z,funding,5000.00,12500.00,NGN,funding,pay01m7yqggjzfs1a3vfakgqbn0x5,paystack,Top-up\r\n"
)


def _examples(*values: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(values)})


class WalletView(BaseModel):
    model_config = _examples(WALLET)

    currency: str
    available: str = Field(description="What can be spent.")
    available_minor: int
    held: str = Field(description="What is on its way out: it ends spent, or available again.")
    held_minor: int
    status: Literal["active", "inactive", "frozen"] = Field(
        description="Nothing leaves a wallet that is not `active`. Money comes into an `inactive` one as before."
    )
    status_reason: str | None = Field(description="Why it is frozen.")
    created_at: datetime


class WalletList(BaseModel):
    model_config = _examples({"data": [WALLET]})

    data: list[WalletView]


class StatementParameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = Field(
        default=None, description="Which wallet; without it, that of the default currency."
    )
    since: Moment | None = Field(default=None, alias="from", description="From this time on (RFC 3339).")
    until: Moment | None = Field(default=None, alias="to", description="Before this time (RFC 3339).")
    page: int = Field(default=1, ge=1, le=MAX_PAGE)
    limit: int = Field(default=20, ge=1, le=100)
    cursor: int | None = Field(
        default=None, ge=1, lt=2**63, description="`next_cursor` of the page before; `page` is then ignored."
    )
    format: Literal["json", "csv"] | None = Field(
        default=None, description="`csv`: the whole period as a file, without pages. `Accept: text/csv` does the same."
    )


class StatementEntry(BaseModel):
    model_config = _examples(ENTRY)

    id: str
    type: str = Field(
        description=(
            "`funding`, `hold` (set aside for a withdrawal, a purchase or a refund), `hold_released`, `returned` (came back "
            "after it had gone), `sent_late` (went after it had been released), `refund`, `refund_returned`, `chargeback`, "
            "`chargeback_won`."
        ),
        examples=["funding"],
    )
    amount: str = Field(description="Negative where it left what can be spent.")
    amount_minor: int
    balance: str = Field(description="What could be spent after this entry.")
    balance_minor: int
    currency: str
    transaction_id: UUID | None
    transaction_kind: Literal["payment", "funding", "withdrawal", "airtime"] | None
    reference: str | None = Field(description="The transaction's.")
    provider: str | None
    description: str | None
    created_at: datetime


class StatementPage(BaseModel):
    model_config = _examples(
        {"currency": "NGN", "data": [ENTRY], "page": 1, "limit": 20, "has_more": False, "next_cursor": None}
    )

    currency: str
    data: list[StatementEntry]
    page: int
    limit: int
    has_more: bool
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; steadier than page numbers.")


class ToggleActivity(RequestModel):
    model_config = _examples({"currency": "NGN", "active": False})

    currency: Currency
    active: bool


class FreezeWallet(RequestModel):
    model_config = _examples({"currency": "NGN", "frozen": True, "reason": "Reported as stolen."})

    currency: Currency
    frozen: bool
    reason: Annotated[str, StringConstraints(pattern=TRIMMED_TEXT, min_length=3, max_length=500)] = Field(
        description="Why; it is kept in the history, and the owner can read it.", examples=["Reported as stolen."]
    )
