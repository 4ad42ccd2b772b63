"""The bodies of the airtime endpoints."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from payflow.airtime.catalogue import Seller
from payflow.airtime.repository import Purchase
from payflow.core.money import Money
from payflow.gateway.contract import AirtimeService, AirtimeVariation
from payflow.transactions import examples
from payflow.transactions.aggregate import Transaction
from payflow.transactions.schemas import Amount, Currency, metadata_of, no_card, phone_number
from payflow.transactions.views import TransactionDetail, TransactionPage, TransactionView, transaction_json
from payflow.web.schemas import TRIMMED_TEXT, RequestModel

ProviderName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{1,40}$")]
SERVICE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
ServiceName = Annotated[str, StringConstraints(pattern=SERVICE_NAME)]

_BOUGHT = {"service_id": "mtn", "variation_code": None, "phone": "+2348011111111"}
_STARTED: dict[str, Any] = {
    **examples.STARTED,
    "kind": "airtime",
    "reference": "air01m7yqggjzfs1a3vfakgqbn0x5",
    "status": "processing",
    "amount": "500.00",
    "amount_minor": 50_000,
    "provider": "vtpass",
    "description": "MTN Airtime VTU",
    "customer": {"email": None, "phone": None, "name": None},
    "return_url": None,
    "next_action": None,
    "checkout_url": None,
    "version": 3,
}
_STARTED_EVENT = examples.EVENTS["airtime.initiated"].example


class PurchaseAirtime(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"service_id": "mtn", "phone": "+2348011111111", "amount": "500.00", "currency": "NGN"},
                {"service_id": "mtn-data", "variation_code": "mtn-10mb-100", "phone": "+2348011111111"},
            ]
        }
    )

    provider: ProviderName | None = Field(
        default=None, description="Without it, the first that sells this service.", examples=["vtpass"]
    )
    service_id: ServiceName = Field(description="One of `GET /airtime/services`.", examples=["mtn"])
    variation_code: ServiceName | None = Field(
        default=None,
        description="For data: one of `GET /airtime/services/{service_id}/variations`.",
        examples=["mtn-10mb-100"],
    )
    phone: Annotated[str, StringConstraints(max_length=32), AfterValidator(phone_number)] = Field(
        description="Who gets it, with country code.", examples=["+2348011111111"]
    )
    amount: Amount | None = Field(
        default=None, description="In major units. With a variation its price, which need not be told."
    )
    currency: Currency = "NGN"
    customer_id: (
        Annotated[str, StringConstraints(pattern=TRIMMED_TEXT, min_length=1, max_length=128), AfterValidator(no_card)]
        | None
    ) = Field(default=None, description="Your own id of the customer; you can list by it.", examples=["customer-7"])
    metadata: Annotated[dict[str, Any], AfterValidator(metadata_of)] = Field(
        default_factory=dict,
        description="Yours; given back as it is. At most 50 keys and 8 KiB, and no card numbers.",
        max_length=50,
    )


class ResolvePurchase(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"outcome": "completed", "reason": "The provider confirmed it by mail."}]}
    )

    outcome: Literal["completed", "failed", "reversed"] = Field(
        description="`completed` takes the held money, `failed` and `reversed` give it back to the wallet."
    )
    reason: Annotated[str, StringConstraints(pattern=TRIMMED_TEXT, min_length=3, max_length=500)] = Field(
        description="Why; it is kept in the history.", examples=["The provider confirmed it by mail."]
    )


class _Bought(BaseModel):
    service_id: str
    variation_code: str | None
    phone: str | None = Field(description="E.164; null once it was erased.")


class PurchaseView(TransactionView, _Bought):
    """A purchase: the transaction, what was bought, and for which number."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_STARTED, **_BOUGHT}]})


class PurchaseDetail(TransactionDetail, _Bought):
    """The whole purchase: with its attempts and history."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{**_STARTED, **_BOUGHT, "attempts": [], "refunds": [], "timeline": [_STARTED_EVENT]}]
        }
    )


class PurchasePage(TransactionPage):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"data": [_STARTED], "page": 1, "limit": 20, "has_more": False, "next_cursor": None}]
        }
    )


class ServiceView(BaseModel):
    """`smallest` and `largest` bound a free amount, where they are known. Data is sold by variation."""

    id: str = Field(examples=["mtn"])
    name: str
    category: Literal["airtime", "data"]
    currency: str
    smallest: str | None
    smallest_minor: int | None
    largest: str | None
    largest_minor: int | None


class ServiceList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "provider": "vtpass",
                    "data": [
                        {
                            "id": "mtn",
                            "name": "MTN Airtime VTU",
                            "category": "airtime",
                            "currency": "NGN",
                            "smallest": "5.00",
                            "smallest_minor": 500,
                            "largest": "500000.00",
                            "largest_minor": 50_000_000,
                        }
                    ],
                }
            ]
        }
    )

    provider: str
    data: list[ServiceView]


class VariationView(BaseModel):
    """A bundle at a fixed price."""

    code: str = Field(examples=["mtn-10mb-100"])
    name: str
    price: str
    price_minor: int
    currency: str


class VariationList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "provider": "vtpass",
                    "service_id": "mtn-data",
                    "data": [
                        {
                            "code": "mtn-10mb-100",
                            "name": "N100 100MB - 24 hrs",
                            "price": "100.00",
                            "price_minor": 10_000,
                            "currency": "NGN",
                        }
                    ],
                }
            ]
        }
    )

    provider: str
    service_id: str
    data: list[VariationView]


def purchase_json(transaction: Transaction, purchase: Purchase) -> dict[str, Any]:
    """The body of `PurchaseView`."""
    return {**transaction_json(transaction), **bought_json(purchase)}


def bought_json(purchase: Purchase) -> dict[str, Any]:
    return {
        "service_id": purchase.service_id,
        "variation_code": purchase.variation_code,
        "phone": purchase.phone,
    }


def services_json(seller: Seller, services: Any) -> dict[str, Any]:
    """The body of `ServiceList`."""
    return {"provider": seller.name, "data": [_service_json(service) for service in services]}


def variations_json(seller: Seller, service_id: str, variations: Any) -> dict[str, Any]:
    """The body of `VariationList`."""
    data = [_variation_json(variation) for variation in variations]
    return {"provider": seller.name, "service_id": service_id, "data": data}


def _service_json(service: AirtimeService) -> dict[str, Any]:
    return {
        "id": service.id,
        "name": service.name,
        "category": service.category.value,
        "currency": service.currency,
        "smallest": _text(service.smallest),
        "smallest_minor": _minor(service.smallest),
        "largest": _text(service.largest),
        "largest_minor": _minor(service.largest),
    }


def _variation_json(variation: AirtimeVariation) -> dict[str, Any]:
    return {
        "code": variation.code,
        "name": variation.name,
        "price": variation.price.decimal_text(),
        "price_minor": variation.price.minor,
        "currency": variation.price.currency,
    }


def _text(money: Money | None) -> str | None:
    return None if money is None else money.decimal_text()


def _minor(money: Money | None) -> int | None:
    return None if money is None else money.minor
