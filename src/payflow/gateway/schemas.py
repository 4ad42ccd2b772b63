"""What `/providers` takes and tells."""

from typing import Annotated, Any

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
}


class ProviderView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: str
    title: str
    configured: bool = Field(description="Whether it has credentials.")
    drained: bool = Field(description="Whether it takes no new payments for the moment.")
    simulated: bool = Field(description="True where no public API of the provider is known and a pattern stands in.")
    capabilities: list[str]
    currencies: list[str]
    countries: list[str]
    methods: list[str]
    webhook_path: str = Field(description="Give the provider this address, after your public URL.")


class ProviderList(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"data": [_EXAMPLE]}]})

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
