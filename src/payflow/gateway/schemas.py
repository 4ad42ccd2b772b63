"""What `GET /providers` tells."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_EXAMPLE: dict[str, Any] = {
    "name": "paystack",
    "title": "Paystack",
    "configured": True,
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
    simulated: bool = Field(description="True where no public API of the provider is known and a pattern stands in.")
    capabilities: list[str]
    currencies: list[str]
    countries: list[str]
    methods: list[str]
    webhook_path: str = Field(description="Give the provider this address, after your public URL.")


class ProviderList(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"data": [_EXAMPLE]}]})

    data: list[ProviderView]


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
