"""What `/providers` takes and tells."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from payflow.web.schemas import TRIMMED_TEXT, RequestModel

_EXAMPLE: dict[str, Any] = {
    "name": "paystack",
    "title": "Paystack",
    "configured": True,
    "drained": False,
    "simulated": False,
    "capabilities": ["collect", "webhooks"],
    "currencies": ["GHS", "KES", "NGN", "USD", "XOF", "ZAR"],
    "countries": ["CI", "GH", "KE", "NG", "ZA"],
    "methods": ["bank_transfer", "card"],
    "webhook_path": "/api/v1/webhooks/paystack",
    "health": {"success_rate": 0.9975, "calls": 400, "latency_ms": 312},
    "breaker": {"state": "closed", "since": "2026-11-21T10:00:00.000000Z", "until": None},
}
_SELLER: dict[str, Any] = {
    "name": "vtpass",
    "title": "VTPass",
    "configured": True,
    "drained": False,
    "simulated": False,
    "capabilities": ["airtime", "webhooks"],
    "currencies": ["NGN"],
    "countries": ["NG"],
    "methods": [],
    "webhook_path": "/api/v1/webhooks/vtpass",
}


class HealthView(BaseModel):
    success_rate: float | None = Field(description="Share of calls that were answered, declines too; null without any.")
    calls: int = Field(description="New payments sent to it within the last minute or so, by all nodes.")
    latency_ms: int | None = Field(description="How long it took on average.")


class BreakerView(BaseModel):
    state: Literal["closed", "open", "half_open"] = Field(
        description="While it is open, payments that name no provider go elsewhere; half-open, one at a time tries."
    )
    since: datetime | None = Field(description="Its last change; null when it never changed.")
    until: datetime | None = Field(description="When an open one becomes half-open.")


class ProviderView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: str
    title: str
    configured: bool = Field(description="Whether it has credentials.")
    drained: bool = Field(description="Whether it takes no new payments for the moment.")
    simulated: bool = Field(description="True where no public API of the provider is known and a pattern stands in.")
    capabilities: list[str] = Field(
        description="Any of `collect`, `cancel`, `otp`, `refund`, `payout`, `banks`, `airtime`, `webhooks`."
    )
    currencies: list[str]
    countries: list[str]
    methods: list[str]
    webhook_path: str = Field(description="Give the provider this address, after your public URL.")
    health: HealthView | None = Field(description="How it does; null while that cannot be read.")
    breaker: BreakerView | None = Field(description="Null while it cannot be read.")


class ProviderList(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"data": [_EXAMPLE, _SELLER]}]})

    data: list[ProviderView]


class DrainProvider(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"drained": True, "reason": "Maintenance tonight."}]})

    drained: bool = Field(default=True, description="False: it takes new payments again.")
    reason: Annotated[str, StringConstraints(pattern=TRIMMED_TEXT, min_length=1, max_length=200)] | None = Field(
        default=None, description="Why; it is kept in the history.", examples=["Maintenance tonight."]
    )


class DrainedView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "paystack", "drained": True}]})

    name: str
    drained: bool


class ConfiguredView(BaseModel):
    """Credentials are never shown again."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "paystack",
                    "config_id": "0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50",
                    "fields": ["secret_key"],
                }
            ]
        }
    )

    name: str
    config_id: str
    fields: list[str] = Field(description="The names of the stored values.")


class RetiredView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "paystack", "retired": 1}]})

    name: str
    retired: int = Field(description="How many former credentials no longer prove a webhook; 0 where there were none.")
