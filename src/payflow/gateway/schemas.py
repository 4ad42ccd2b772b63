"""What `GET /providers` tells."""

from pydantic import BaseModel, ConfigDict, Field


class ProviderView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
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
            ]
        }
    )

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
    data: list[ProviderView]


class ConfiguredView(BaseModel):
    """Credentials are never shown again."""

    name: str
    config_id: str
    fields: list[str] = Field(description="The names of the stored values.")
