"""Settings of the simulator. Its keys are obvious fakes: nothing here opens anything real."""

import base64
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

# Published by Safaricom for everybody's sandbox; it protects nothing.
SANDBOX_PASSKEY = "bfb279f9aa9bdbcf158e97dd71a467cd2e0c893059b10f78e6b72ada1ed2c919"


class SimulatorNotAllowed(RuntimeError):
    """The simulator takes no money and checks nobody, so it must never run in production."""


class Behaviour(BaseModel):
    """What can be changed while it runs, by `POST /_control/settings`."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    paystack_webhook_url: str = "http://127.0.0.1:8000/api/v1/webhooks/paystack"
    stripe_webhook_url: str = "http://127.0.0.1:8000/api/v1/webhooks/stripe"
    moniepoint_webhook_url: str = "http://127.0.0.1:8000/api/v1/webhooks/moniepoint"
    flutterwave_webhook_url: str = "http://127.0.0.1:8000/api/v1/webhooks/flutterwave"
    vtpass_webhook_url: str = "http://127.0.0.1:8000/api/v1/webhooks/vtpass"
    deliver_webhooks: bool = True
    answer_queries: bool = True
    # Off: a charge waits until somebody uses the hosted page or `POST /_control/charges/...`.
    automatic_customer: bool = True
    customer_delay_seconds: NonNegativeFloat = 0.5
    slow_seconds: NonNegativeFloat = 5.0
    hang_seconds: NonNegativeFloat = 120.0
    webhook_retries: NonNegativeInt = 5
    webhook_backoff_seconds: NonNegativeFloat = 0.5
    webhook_timeout_seconds: float = Field(default=30.0, gt=0)
    # Daraja was seen to deliver exactly once, whatever the receiver answers.
    mpesa_callback_retries: NonNegativeInt = 0
    accept_any_test_key: bool = False
    paystack_unknown_reference_status: int = Field(default=400, ge=400, le=404)
    # Which of several tries of one tx_ref it tells is documented nowhere.
    flutterwave_reference_answers: Literal["newest", "oldest"] = "newest"
    # As v4 does: an HMAC of the body, instead of the secret itself.
    flutterwave_sign_webhooks: bool = False
    mpesa_in_flight_answer: Literal["4999", "500.001.1001"] = "4999"
    mpesa_lock_subscriber: bool = False
    mpesa_one_token_at_a_time: bool = False
    mpesa_expires_in_as_text: bool = True
    mpesa_requests_per_minute: PositiveInt | None = None
    # As live, where C2B URLs can be registered once.
    mpesa_register_urls_once: bool = False
    mpesa_external_validation: bool = False
    standardbank_pay_window_seconds: PositiveInt = 300
    # Monnify's sandbox was seen to send its webhooks without a signature.
    moniepoint_sign_webhooks: bool = True
    moniepoint_otp: str = Field(default="123456", min_length=1)
    cpay_otp: str = Field(default="123456", min_length=1)
    cpay_camel_case: bool = False
    cpay_card_as_page: bool = False
    # VTPass refuses the same service and number within 30 seconds.
    vtpass_repeat_seconds: NonNegativeFloat = 0.0
    # Flat answers to airtime, amounts as text, `varations`.
    vtpass_old_answers: bool = False


class SimulatorSettings(Behaviour, BaseSettings):
    """Read from `PAYFLOW_SIMULATOR_…`; `environment` alone from `PAYFLOW_ENVIRONMENT`, shared with the service."""

    model_config = SettingsConfigDict(
        env_prefix="PAYFLOW_SIMULATOR_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        validate_assignment=False,
        populate_by_name=True,
    )

    environment: str = Field(default="development", validation_alias="PAYFLOW_ENVIRONMENT")
    host: str = "127.0.0.1"
    port: int = 8090
    public_url: str | None = None
    paystack_secret_key: str = "sk_test_simulator_paystack"  # noqa: S105
    stripe_secret_key: str = "sk_test_simulator_stripe"  # noqa: S105
    stripe_webhook_secret: str = "whsec_simulator"  # noqa: S105
    stripe_api_version: str = "2025-09-30.clover"
    flutterwave_secret_key: str = "FLWSECK_TEST-simulator-X"  # noqa: S105
    flutterwave_secret_hash: str = "simulator_flutterwave_hash"  # noqa: S105
    mpesa_consumer_key: str = "simulator_consumer_key"
    mpesa_consumer_secret: str = "simulator_consumer_secret"  # noqa: S105
    mpesa_shortcode: str = "174379"
    mpesa_passkey: str = SANDBOX_PASSKEY
    mpesa_initiator_name: str = "testapi"
    mpesa_initiator_password: str = "Simulator#1"  # noqa: S105
    # PEM. With it the SecurityCredential is decrypted, without it only its length is checked.
    mpesa_private_key: str = ""
    standardbank_pay_api_key: str = "sbp_test_simulator"
    standardbank_pay_client_id: str = "simulator"
    standardbank_pay_signing_secret: str = "simulator_signing_secret"  # noqa: S105
    moniepoint_api_key: str = "MK_TEST_SIMULATOR"
    moniepoint_secret_key: str = "simulator_moniepoint_secret"  # noqa: S105
    moniepoint_contract_code: str = "1234567890"
    moniepoint_source_account_number: str = "9988776655"
    cpay_api_key: str = "simulator_cpay_api_key"
    cpay_client_code: str = "10000001"
    cpay_secret: str = "simulator_cpay_secret"  # noqa: S105
    vtpass_api_key: str = "simulator_vtpass_api_key"
    vtpass_public_key: str = "PK_simulator_vtpass"
    vtpass_secret_key: str = "SK_simulator_vtpass"  # noqa: S105

    @property
    def base_url(self) -> str:
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def mpesa_security_credential(self) -> str:
        """Long enough, which is all that is checked without a private key."""
        return base64.b64encode(b"simulator".ljust(256, b".")).decode()

    def behaviour(self) -> Behaviour:
        values: dict[str, Any] = self.model_dump(include=set(Behaviour.model_fields))
        return Behaviour.model_validate(values)
