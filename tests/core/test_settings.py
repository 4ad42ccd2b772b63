from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from payflow.core.errors import InFlight, Invalid, PayFlowError
from payflow.core.settings import DEVELOPMENT_SECRET, Settings, generated_secret

PRODUCTION: dict[str, Any] = {
    "environment": "production",
    "secret_key": SecretStr("k" * 32),
    "database_url": "postgresql://db/payflow",
    "redis_url": "redis://cache",
    "amqp_url": "amqp://broker",
}


def settings(**changes: Any) -> Settings:
    return Settings(_env_file=None, **{**PRODUCTION, **changes})


def test_production_starts_with_secrets_of_its_own() -> None:
    assert settings().environment == "production"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"secret_key": SecretStr(DEVELOPMENT_SECRET)}, "PAYFLOW_SECRET_KEY must be set"),
        ({"secret_key": SecretStr("k" * 31)}, "at least 32 characters"),
        ({"credentials_key": SecretStr("k" * 31)}, "PAYFLOW_CREDENTIALS_KEY must have at least 32"),
        ({"credentials_key": SecretStr(DEVELOPMENT_SECRET)}, "must not open provider credentials"),
        ({"former_credentials_keys": (SecretStr(DEVELOPMENT_SECRET),)}, "must not open provider credentials"),
        ({"database_url": ""}, "DATABASE_URL must be set"),
        ({"redis_url": ""}, "REDIS_URL must be set"),
        ({"amqp_url": ""}, "AMQP_URL must be set"),
        (
            {"provider_credentials": {"paystack": {"secret_key": SecretStr("sk_test_simulator_paystack")}}},
            "credentials of paystack are the simulator's",
        ),
    ],
)
def test_production_refuses_what_is_for_development(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason) as refused:
        settings(**changes)
    assert "sk_test_simulator" not in str(refused.value)
    assert "k" * 31 not in str(refused.value)


def test_an_empty_key_opens_nothing_anywhere() -> None:
    with pytest.raises(ValidationError, match="holds an empty key"):
        settings(environment="development", former_credentials_keys=(SecretStr("k" * 32), SecretStr("")))


def test_development_needs_no_secret() -> None:
    assert (
        settings(environment="development", secret_key=SecretStr(DEVELOPMENT_SECRET), database_url="").database_url
        == ""
    )


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/db")
    monkeypatch.setenv("PAYFLOW_PROVIDER_CREDENTIALS__PAYSTACK__SECRET_KEY", "sk_test_mine")
    monkeypatch.setenv("PAYFLOW_PROVIDER_TIMEOUT_SECONDS", "7.5")
    read = Settings(_env_file=None)
    assert read.database_url == "postgresql://elsewhere/db"
    assert read.provider_timeout_seconds == 7.5
    assert read.provider_credentials["paystack"]["secret_key"].get_secret_value() == "sk_test_mine"
    assert "sk_test_mine" not in repr(read)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        settings().port = 1  # type: ignore[misc]


def test_generated_secrets_are_long_and_differ() -> None:
    assert len({generated_secret() for _ in range(10)}) == 10
    assert len(generated_secret()) >= 32


def test_an_errors_docstring_is_its_message() -> None:
    assert InFlight().detail == "A request with this Idempotency-Key is still running."
    assert (InFlight.status.value, InFlight.code) == (409, "in_flight")
    assert Invalid("Wrong.", code="odd").code == "odd"
    assert str(PayFlowError("Broken.")) == "Broken."


def test_limits_by_currency_are_read_from_either_way_of_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYFLOW_WITHDRAWAL_DAILY_MINOR__NGN", "500000")
    monkeypatch.setenv("PAYFLOW_WITHDRAWAL_APPROVAL_MINOR", '{"kes": 100}')
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    assert settings.withdrawal_daily_minor == {"NGN": 500_000}
    assert settings.withdrawal_approval_minor == {"KES": 100}
