"""Every setting, read once from the environment (and `.env`), frozen, and handed to who needs it.

`DATABASE_URL`, `REDIS_URL` and `AMQP_URL` carry no prefix because every platform sets them so; the rest is `PAYFLOW_…`.
A nested value is written with a double underscore: `PAYFLOW_PROVIDER_CREDENTIALS__PAYSTACK__SECRET_KEY=…`.
"""

import secrets
from typing import Literal, Self

from pydantic import (
    AliasChoices,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from payflow.core.money import exponent

DEVELOPMENT_SECRET = "development-only-secret-do-not-use-in-production"  # noqa: S105 - a marker that production refuses


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="PAYFLOW_",
        env_file=".env",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    environment: Literal["development", "test", "production"] = "development"
    secret_key: SecretStr = Field(
        default=SecretStr(DEVELOPMENT_SECRET), description="At least 32 characters; every other key is derived from it."
    )
    credentials_key: SecretStr | None = Field(
        default=None, description="Seals provider credentials in the database; derived from secret_key when empty."
    )
    former_credentials_keys: tuple[SecretStr, ...] = Field(
        default=(), description="Keys that sealed before; they only open, until `payflow rotate-keys` has run."
    )

    database_url: str = Field(default="", validation_alias=AliasChoices("DATABASE_URL", "database_url"))
    redis_url: str = Field(default="", validation_alias=AliasChoices("REDIS_URL", "redis_url"))
    amqp_url: str = Field(
        default="",
        validation_alias=AliasChoices("AMQP_URL", "amqp_url"),
        description="Empty: the queue is the spool in PostgreSQL.",
    )
    data_dir: str = ""
    database_pool_size: int = 20
    # A connection beyond the pool is opened for one use and costs more than the statement (docs/performance.md).
    database_pool_overflow: int = 0
    redis_prefix: str = "payflow:"
    queue_prefix: str = "payflow"

    host: str = "127.0.0.1"
    port: int = 8000
    public_url: str = Field(
        default="http://127.0.0.1:8000", description="Where providers and customers reach this service."
    )
    log_level: str = "INFO"
    cors_origins: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = Field(
        default=(), description="Origins whose pages may open sockets, beside those of cors_origins and public_url."
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=(), description="Addresses whose X-Forwarded-For is believed; empty: the peer's address counts."
    )
    max_body_bytes: int = 1_048_576

    access_token_seconds: int = 900
    refresh_token_seconds: int = 30 * 24 * 3600
    password_hash_threads: int = 2
    registration_open: bool = True

    writes_per_minute: int = 600
    reads_per_minute: int = 3_000
    logins_per_minute: int = 30
    refused_webhooks_per_minute: int = 300

    default_currency: str = Field(
        default="NGN", description="Of the wallet that every user has from registration on (ISO 4217)."
    )

    idempotency_lease_seconds: int = 60
    idempotency_days: int = 1
    provider_timeout_seconds: float = 30.0
    provider_connect_timeout_seconds: float = 5.0
    provider_connections: int = 200
    provider_base_urls: dict[str, str] = Field(default_factory=dict)
    provider_credentials: dict[str, dict[str, SecretStr]] = Field(default_factory=dict)
    provider_order: tuple[str, ...] = Field(default=(), description="Preferred first; the others follow.")
    provider_weights: dict[str, NonNegativeInt] = Field(
        default_factory=dict, description="Shares among providers that the order does not list; 1 where none is given."
    )
    breaker_failures: PositiveInt = Field(default=5, description="Silences in a row after which a breaker opens.")
    breaker_failure_ratio: float = Field(default=0.5, gt=0, le=1, description="Or this share of silences.")
    breaker_min_calls: PositiveInt = Field(default=20, description="Fewer calls than these have no share.")
    breaker_window_seconds: PositiveInt = Field(default=60, description="Over which calls and health are counted.")
    breaker_cool_down_seconds: PositiveFloat = 15.0
    breaker_max_cool_down_seconds: PositiveFloat = 300.0
    enforce_webhook_sources: bool = False
    card_details_accepted: bool = Field(
        default=False,
        description="Whether payments may bring a card's number; puts the installation in scope of PCI DSS.",
    )
    unordered_payments_accepted: bool = Field(
        default=True, description="Whether a payment is taken that names no order of ours, where a provider asks (C2B)."
    )
    unordered_payments_owner: str = Field(
        default="", description="Email of the user whom such money is recorded for; empty: the oldest administrator."
    )

    webhook_confirm_seconds: float = 2.0
    queue_prefetch: int = 100
    queue_batch: int = 50
    queue_delivery_limit: int = 20
    overtaken_delays_seconds: tuple[float, ...] = (2, 10)
    ladder_seconds: tuple[float, ...] = (60, 300, 900, 3_600, 21_600)
    spool_poll_seconds: float = 1.0
    spool_lease_seconds: float = 60.0

    timer_interval_seconds: float = 1.0
    timer_batch: int = 50
    books_check_seconds: PositiveFloat = Field(default=900.0, description="Between two checks of the books by workers.")
    check_min_interval_seconds: float | None = Field(
        default=None, description="Between two queries about one attempt; empty: what each provider declares."
    )
    check_schedule_seconds: tuple[float, ...] = (20, 30, 60, 120, 300, 900, 3_600)
    provider_checks_per_minute: int = 120
    expiry_grace_seconds: float = 300.0
    refund_duplicates: bool = Field(
        default=False, description="Give second payments of the same back without being asked."
    )
    refund_review_seconds: float = Field(
        default=14 * 86_400.0,
        description="When a refund without a final answer is put before a person; asked on daily.",
    )
    unresolved_review_seconds: float = Field(
        default=86_400.0, description="After a session's end without a final answer: when a person has to look."
    )

    withdrawals_per_day: PositiveInt = Field(
        default=100, description="Of one wallet in 24 hours; failed and cancelled ones do not count."
    )
    withdrawal_daily_minor: dict[str, PositiveInt] = Field(
        default_factory=dict, description="Minor units that may leave one wallet in 24 hours, by currency."
    )
    withdrawal_approval_minor: dict[str, NonNegativeInt] = Field(
        default_factory=dict, description="From this amount on, by currency, somebody else has to approve."
    )
    account_lookups_per_minute: PositiveInt = 30

    socket_auth_seconds: float = 5.0
    socket_queue_size: int = 256
    sockets_unauthenticated_per_address: int = 50
    sockets_per_user: int = 5_000
    socket_catch_up_seconds: float = 3.0
    client_token_grace_seconds: int = 3_600
    ticket_seconds: int = 60

    reconciliation_margin_seconds: NonNegativeInt = Field(
        default=600,
        description="So near to the edge of a settlement file's time, what it does not tell may stand in the next file.",
    )

    worker_metrics_port: int = 0

    @field_validator("former_credentials_keys")
    @classmethod
    def _no_empty_key(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        """Everybody holds the empty key: whoever writes to the database could seal with it."""
        if not all(key.get_secret_value() for key in keys):
            raise ValueError("PAYFLOW_FORMER_CREDENTIALS_KEYS holds an empty key")
        return keys

    @field_validator("default_currency")
    @classmethod
    def _known_currency(cls, currency: str) -> str:
        exponent(currency)
        return currency

    @field_validator("withdrawal_daily_minor", "withdrawal_approval_minor", mode="before")
    @classmethod
    def _currencies(cls, amounts: object) -> object:
        """`PAYFLOW_WITHDRAWAL_DAILY_MINOR__NGN` comes as `ngn`: a limit must not go unseen for that."""
        return {str(name).upper(): minor for name, minor in amounts.items()} if isinstance(amounts, dict) else amounts

    @model_validator(mode="after")
    def _refuse_development_secrets(self) -> Self:
        if self.environment != "production":
            return self
        problems = []
        key = self.secret_key.get_secret_value()
        if key == DEVELOPMENT_SECRET or len(key) < 32:
            problems.append("PAYFLOW_SECRET_KEY must be set to at least 32 characters of its own")
        if self.credentials_key and len(self.sealing_secret) < 32:
            problems.append("PAYFLOW_CREDENTIALS_KEY must have at least 32 characters")
        if DEVELOPMENT_SECRET in (self.sealing_secret, *self.former_sealing_secrets) and key != DEVELOPMENT_SECRET:
            problems.append("the development secret must not open provider credentials")
        for name in ("database_url", "redis_url", "amqp_url"):
            if not getattr(self, name):
                problems.append(f"{name.upper()} must be set (embedded servers are for development)")
        for provider, values in self.provider_credentials.items():
            if any("simulator" in value.get_secret_value() for value in values.values()):
                problems.append(f"the credentials of {provider} are the simulator's")
        if problems:
            raise ValueError("refusing to start in production: " + "; ".join(problems))
        return self

    @property
    def sealing_secret(self) -> str:
        """What seals provider credentials."""
        return (self.credentials_key or self.secret_key).get_secret_value()

    @property
    def former_sealing_secrets(self) -> tuple[str, ...]:
        return tuple(key.get_secret_value() for key in self.former_credentials_keys)


def generated_secret() -> str:
    """A fresh secret for an embedded installation, kept in its data folder."""
    return secrets.token_urlsafe(48)
