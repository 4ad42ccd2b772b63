"""Every setting, read once from the environment (and `.env`), frozen, and handed to who needs it.

`DATABASE_URL`, `REDIS_URL` and `AMQP_URL` carry no prefix because every platform sets them so; the rest is `PAYFLOW_…`.
A nested value is written with a double underscore: `PAYFLOW_PROVIDER_CREDENTIALS__PAYSTACK__SECRET_KEY=…`.
"""

import secrets
from typing import Literal, Self

from pydantic import AliasChoices, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

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

    idempotency_lease_seconds: int = 60
    idempotency_days: int = 1
    provider_timeout_seconds: float = 30.0
    provider_connect_timeout_seconds: float = 5.0
    provider_connections: int = 200
    provider_base_urls: dict[str, str] = Field(default_factory=dict)
    provider_credentials: dict[str, dict[str, SecretStr]] = Field(default_factory=dict)
    provider_order: tuple[str, ...] = Field(default=(), description="Preferred first; the others follow by name.")
    enforce_webhook_sources: bool = False

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
    check_min_interval_seconds: float | None = Field(
        default=None, description="Between two queries about one attempt; empty: what each provider declares."
    )
    check_schedule_seconds: tuple[float, ...] = (20, 30, 60, 120, 300, 900, 3_600)
    provider_checks_per_minute: int = 120
    expiry_grace_seconds: float = 300.0
    unresolved_review_seconds: float = Field(
        default=86_400.0, description="After a session's end without a final answer: when a person has to look."
    )

    socket_auth_seconds: float = 5.0
    socket_queue_size: int = 256
    sockets_unauthenticated_per_address: int = 50
    sockets_per_user: int = 5_000
    socket_catch_up_seconds: float = 3.0
    client_token_grace_seconds: int = 3_600
    ticket_seconds: int = 60

    worker_metrics_port: int = 0

    @model_validator(mode="after")
    def _refuse_development_secrets(self) -> Self:
        if self.environment != "production":
            return self
        problems = []
        key = self.secret_key.get_secret_value()
        if key == DEVELOPMENT_SECRET or len(key) < 32:
            problems.append("PAYFLOW_SECRET_KEY must be set to at least 32 characters of its own")
        for name in ("database_url", "redis_url", "amqp_url"):
            if not getattr(self, name):
                problems.append(f"{name.upper()} must be set (embedded servers are for development)")
        for provider, values in self.provider_credentials.items():
            if any("simulator" in value.get_secret_value() for value in values.values()):
                problems.append(f"the credentials of {provider} are the simulator's")
        if problems:
            raise ValueError("refusing to start in production: " + "; ".join(problems))
        return self


def generated_secret() -> str:
    """A fresh secret for an embedded installation, kept in its data folder."""
    return secrets.token_urlsafe(48)
