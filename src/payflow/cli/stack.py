"""Everything in one process: API, worker and simulator, with embedded PostgreSQL and Redis where no URL is set."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from payflow.bootstrap import Services, build_services
from payflow.cli.serving import Serving, bind
from payflow.core.settings import DEVELOPMENT_SECRET, Settings, generated_secret
from payflow.infra import migrations
from payflow.infra.embedded import EmbeddedServers, default_data_dir
from payflow.main import create_app
from payflow.simulator.app import create_simulator
from payflow.simulator.settings import SimulatorSettings
from worker.app import Worker

DEMO_EMAIL = "demo@payflow.example"
DEMO_PASSWORD = "demo-password"  # noqa: S105 - shown to everybody; only made where the simulator runs
ADMIN_EMAIL = "admin@payflow.example"


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack. `url` is the API's base without a path."""

    url: str
    simulator_url: str
    services: Services
    parts: Mapping[str, str]

    async def control(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Tell the simulator how to behave, or to act: a POST to its `/_control`."""
        async with httpx.AsyncClient(base_url=self.simulator_url, trust_env=False, timeout=60) as simulator:
            (await simulator.post(f"/_control{path}", json=body)).raise_for_status()


@asynccontextmanager
async def running_stack(settings: Settings, *, any_port: bool = False) -> AsyncIterator[Stack]:
    """Start all of it, in order, and stop it in reverse."""
    async with AsyncExitStack() as stack:
        settings, parts = await _with_servers(settings, stack)
        await migrations.upgrade(settings.database_url)
        api_listener = bind(settings.host, 0 if any_port else settings.port, "PAYFLOW_PORT")
        stack.callback(api_listener.close)
        simulator_settings = SimulatorSettings()
        simulator_listener = bind(
            simulator_settings.host, 0 if any_port else simulator_settings.port, "PAYFLOW_SIMULATOR_PORT"
        )
        stack.callback(simulator_listener.close)
        url = f"http://{settings.host}:{api_listener.getsockname()[1]}"
        simulator_url = f"http://{simulator_settings.host}:{simulator_listener.getsockname()[1]}"
        settings = _towards_simulator(settings, simulator_settings, url, simulator_url)

        simulator = Serving(create_simulator(_towards_api(simulator_settings, url, simulator_url)), simulator_listener)
        await simulator.start()
        stack.push_async_callback(simulator.stop)
        services = build_services(settings)
        api = Serving(create_app(services), api_listener)
        await api.start()
        stack.push_async_callback(api.stop)
        worker = Worker(services)
        await worker.start()
        stack.push_async_callback(worker.stop)
        yield Stack(url, simulator_url, services, parts)


async def _with_servers(settings: Settings, stack: AsyncExitStack) -> tuple[Settings, dict[str, str]]:
    """Embedded servers for what has no URL; a secret of this installation's own for what has none."""
    parts = {"postgres": "DATABASE_URL", "redis": "REDIS_URL", "queue": "AMQP_URL"}
    changes: dict[str, object] = {}
    data_dir = _data_dir(settings)
    if not settings.database_url or not settings.redis_url:
        embedded = EmbeddedServers(data_dir, postgres=not settings.database_url, redis=not settings.redis_url)
        await stack.enter_async_context(embedded)
        if not settings.database_url:
            changes["database_url"] = embedded.database_url
            parts["postgres"] = f"embedded, data in {data_dir}"
        if not settings.redis_url:
            changes["redis_url"] = embedded.redis_url
            parts["redis"] = "embedded, in memory"
    if not settings.amqp_url:
        parts["queue"] = "the spool in PostgreSQL (no AMQP_URL)"
    if not settings.database_url and settings.secret_key.get_secret_value() == DEVELOPMENT_SECRET:
        changes["secret_key"] = SecretStr(_own_secret(data_dir))
    return settings.model_copy(update=changes), parts


def _data_dir(settings: Settings) -> Path:
    return Path(settings.data_dir).expanduser() if settings.data_dir else default_data_dir(os.environ)


def _own_secret(data_dir: Path) -> str:
    """Made once and kept beside the embedded data, so that tokens survive a restart."""
    path = data_dir / "secret"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(generated_secret())
    return path.read_text()


def _towards_simulator(settings: Settings, simulator: SimulatorSettings, url: str, simulator_url: str) -> Settings:
    """Providers without credentials of their own are simulated."""
    fakes = {
        "paystack": {"secret_key": simulator.paystack_secret_key},
        "stripe": {
            "secret_key": simulator.stripe_secret_key,
            "webhook_secret": simulator.stripe_webhook_secret,
        },
        "flutterwave": {
            "secret_key": simulator.flutterwave_secret_key,
            "secret_hash": simulator.flutterwave_secret_hash,
        },
        "mpesa": {
            "consumer_key": simulator.mpesa_consumer_key,
            "consumer_secret": simulator.mpesa_consumer_secret,
            "shortcode": simulator.mpesa_shortcode,
            "passkey": simulator.mpesa_passkey,
            "initiator_name": simulator.mpesa_initiator_name,
            "security_credential": simulator.mpesa_security_credential,
        },
        "standardbank_pay": {
            "api_key": simulator.standardbank_pay_api_key,
            "client_id": simulator.standardbank_pay_client_id,
            "signing_secret": simulator.standardbank_pay_signing_secret,
        },
        "moniepoint": {
            "api_key": simulator.moniepoint_api_key,
            "secret_key": simulator.moniepoint_secret_key,
            "contract_code": simulator.moniepoint_contract_code,
            "source_account_number": simulator.moniepoint_source_account_number,
        },
        "cpay": {
            "api_key": simulator.cpay_api_key,
            "client_code": simulator.cpay_client_code,
            "secret": simulator.cpay_secret,
        },
        "vtpass": {
            "api_key": simulator.vtpass_api_key,
            "public_key": simulator.vtpass_public_key,
            "secret_key": simulator.vtpass_secret_key,
        },
    }
    credentials = dict(settings.provider_credentials)
    base_urls = dict(settings.provider_base_urls)
    for name, values in fakes.items():
        if name not in credentials:
            credentials[name] = {field: SecretStr(str(value)) for field, value in values.items()}
            base_urls.setdefault(name, f"{simulator_url}/{name}")
    return settings.model_copy(
        update={"provider_credentials": credentials, "provider_base_urls": base_urls, "public_url": url}
    )


def _towards_api(simulator: SimulatorSettings, url: str, simulator_url: str) -> SimulatorSettings:
    return simulator.model_copy(
        update={
            "public_url": simulator_url,
            "paystack_webhook_url": f"{url}/api/v1/webhooks/paystack",
            "stripe_webhook_url": f"{url}/api/v1/webhooks/stripe",
            "moniepoint_webhook_url": f"{url}/api/v1/webhooks/moniepoint",
            "flutterwave_webhook_url": f"{url}/api/v1/webhooks/flutterwave",
            "vtpass_webhook_url": f"{url}/api/v1/webhooks/vtpass",
        }
    )
