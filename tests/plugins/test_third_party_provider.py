"""A provider that PayFlow's code does not name: written by a command, installed as a package, taking a payment."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import uvicorn

from payflow.bootstrap import provider_classes
from payflow.cli.scaffold import NotAProviderName, write_provider
from tests.cli.conftest import Run, Start, compiled, folder, free_port, run, start
from tests.cli.test_commands import environment_of, one_line
from tests.house import SECRET, Urls, eventually, running_house

__all__ = ["compiled", "folder", "run", "start"]  # fixtures

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "payflow-provider-example"
PATH = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT)]))


def python(*arguments: str, cwd: Path, path: str = PATH) -> str:
    """The output of a Python process that has to succeed."""
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contract(tests: Path, path: str = PATH, settings: Path = ROOT) -> int:
    """How many tests of the contract passed; none may do anything else."""
    options = ("-q", "-p", "no:cacheprovider", "-c", str(settings / "pyproject.toml"))
    out = python("-m", "pytest", *options, str(tests), cwd=tests if tests.is_dir() else tests.parent, path=path)
    found = re.search(r"^(\d+) passed in ", out, re.M)
    assert found, out
    return int(found[1])


def own_files(place: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in place.iterdir() if path.suffix in (".py", ".toml")}


# Installed


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built and installed without any network."""
    target = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index")
    python("-m", "pip", "install", *options, "--target", str(target), str(EXAMPLE), cwd=target)
    return target


def test_the_package_brings_the_adapter_and_its_entry_point_alone(installed: Path) -> None:
    assert [path.name for path in installed.glob("*.py")] == ["example_pay.py"]
    (points,) = installed.glob("*.dist-info/entry_points.txt")
    assert points.read_text().split() == ["[payflow.providers]", "example_pay", "=", "example_pay:ExamplePay"]


@asynccontextmanager
async def served(application: str, port: int, folder: Path) -> AsyncIterator[str]:
    """The example's simulator, on a real socket."""
    sys.path.insert(0, str(folder))
    try:
        simulator = __import__(application)
    finally:
        sys.path.remove(str(folder))
    app = simulator.create_app(simulator.ExamplePay())
    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


@pytest.mark.timeout(240)
async def test_an_installed_provider_is_found_and_takes_a_payment(start: Start, urls: Urls, installed: Path) -> None:
    port = free_port()
    api = f"http://127.0.0.1:{port}"
    async with (
        running_house(urls, worker=False, amqp_url="") as house,
        served("example_pay_simulator", free_port(), EXAMPLE) as provider,
        httpx.AsyncClient(base_url=f"{api}/api/v1", trust_env=False, timeout=30) as client,
    ):
        environment = {
            **environment_of(house),
            "PYTHONPATH": f"{installed}{os.pathsep}{PATH}",
            "PYTHONPYCACHEPREFIX": "",  # what is compiled already
            "PAYFLOW_SECRET_KEY": SECRET,
            "PAYFLOW_PORT": str(port),
            "PAYFLOW_PUBLIC_URL": api,
            "PAYFLOW_PROVIDER_BASE_URLS__EXAMPLE_PAY": provider,
            "PAYFLOW_PROVIDER_CREDENTIALS__EXAMPLE_PAY__SECRET_KEY": "sk_test_simulator_example_pay",
            "PAYFLOW_PROVIDER_CREDENTIALS__EXAMPLE_PAY__WEBHOOK_SECRET": "webhook_secret_simulator_example_pay",
        }
        node = await start("api", **environment)

        said: list[str] = []

        async def ready() -> bool:
            assert node.process.returncode is None, await node.ends()
            try:
                answer = await client.get("/health/ready")
            except httpx.HTTPError as error:
                said.append(repr(error))
                return False
            said.append(answer.text)
            return answer.status_code == 200

        await eventually(ready, seconds=90, what=lambda: f"the API, which says {said[-1]}")
        await start("worker", **environment)
        ada = await house.merchant()
        client.headers["authorization"] = ada.client.headers["authorization"]
        listed = {each["name"]: each for each in (await client.get("/providers")).json()["data"]}
        assert listed["example_pay"]["configured"]
        assert {"collect", "webhooks"} <= set(listed["example_pay"]["capabilities"])
        order = {
            "provider": "example_pay",
            "amount": "1500.00",
            "currency": "NGN",
            "customer": {"email": "ada@example.com"},
        }
        answer = await client.post("/payments/initialize", json=order, headers={"idempotency-key": str(uuid4())})
        assert answer.status_code == 201, answer.text
        payment = answer.json()
        assert payment["status"] == "requires_action"
        assert payment["checkout_url"].startswith(f"{provider}/pay/att")
        assert (await client.post(payment["checkout_url"])).status_code == 200

        async def completed() -> bool:
            payment.update((await client.get(f"/payments/{payment['id']}")).json())
            return bool(payment["status"] == "completed")

        await eventually(completed, seconds=60, what="the webhook to be settled")
        assert [event["type"] for event in payment["timeline"]][-1] == "payment.completed"
        assert (payment["provider"], payment["amount"]) == ("example_pay", "1500.00")


RESERVED = """
from dataclasses import replace
from payflow.providers.paystack import Paystack
class Clashing(Paystack):
    declaration = replace(Paystack.declaration, name="clashing", path_name="payment")
"""


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (
            "from payflow.providers.paystack import Paystack\n",
            "Paystack",
            "payflow: Two providers are called 'paystack', or take webhooks at 'paystack'.",
        ),
        (RESERVED, "Clashing", "payflow: 'clashing' takes webhooks at 'payment', which all providers share."),
    ],
)
async def test_a_provider_under_a_name_or_an_address_that_is_taken_is_refused(
    run: Run, tmp_path: Path, text: str, kind: str, reason: str
) -> None:
    (tmp_path / "clashing.py").write_text(text)
    information = tmp_path / "clashing-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: clashing\nVersion: 1\n")
    (information / "entry_points.txt").write_text(f"[payflow.providers]\nclashing = clashing:{kind}\n")
    done = await run("openapi", seconds=110, PYTHONPATH=f"{tmp_path}{os.pathsep}{PATH}")
    assert (done.code, done.out) == (1, "")
    assert one_line(done.errors) == reason


# Written


async def test_the_example_is_what_the_command_writes(run: Run, folder: Path) -> None:
    done = await run("new-provider", "example_pay")
    assert done.code == 0, done.errors
    assert own_files(folder) == own_files(EXAMPLE)
    assert [line for line in done.out.splitlines() if line.startswith("Wrote ")] == [
        f"Wrote {name}" for name in ("pyproject.toml", "example_pay.py", "test_example_pay.py", "example_pay_simulator.py")
    ]  # fmt: skip


def test_the_example_keeps_the_contract() -> None:
    assert contract(EXAMPLE) > 70


async def test_a_new_package_keeps_the_contract(run: Run, folder: Path) -> None:
    done = await run("new-provider", "acme_pay_2")
    assert done.code == 0, done.errors
    # With its own settings, as who runs pytest in its folder does.
    assert contract(folder, settings=folder) > 70


async def test_a_new_provider_in_a_checkout_is_found_by_its_folder_and_keeps_the_contract(
    start: Start, run: Run, folder: Path
) -> None:
    checkout = folder / "checkout"
    for name in ("src", "worker", "tests/providers"):
        await asyncio.to_thread(
            subprocess.run, ["cp", "-R", "--parents", name, str(make(checkout))], cwd=ROOT, check=True
        )
    for name in ("pyproject.toml", "tests/__init__.py"):
        (checkout / name).write_text((ROOT / name).read_text())
    path = os.pathsep.join([str(checkout / "src"), str(checkout)])
    done = await run("new-provider", "zeta", "--folder", str(checkout), PYTHONPATH=path)
    assert done.code == 0, done.errors
    assert contract(checkout / "tests/providers/test_provider_zeta.py", path, checkout) > 70
    again = await run("new-provider", "zeta", "--folder", str(checkout), PYTHONPATH=path)
    assert (again.code, one_line(again.errors)) == (1, "payflow: There is a provider 'zeta' already (Zeta).")
    for tool in (("ruff", "check"), ("ruff", "format", "--check")):
        python("-m", *tool, ".", cwd=checkout)


def make(place: Path) -> Path:
    place.mkdir(exist_ok=True)
    return place


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("paystack", "There is a provider 'paystack' already (Paystack)."),
        ("li_pa", "Webhooks of 'mpesa' come to 'lipa' already."),
        ("json", "There is a Python module 'json' already."),
        ("Acme", "'Acme' is not a name for a provider"),
        ("acme-pay", "'acme-pay' is not a name for a provider"),
        ("../acme", "'../acme' is not a name for a provider"),
        ("class", "'class' is not a name for a provider"),
        ("a", "'a' is not a name for a provider"),
        ("2acme", "'2acme' is not a name for a provider"),
        ("payment", "Webhooks would come to 'payment', an older address that all providers share."),
        ("visa", "'visa' is an older name for paying by card."),
        ("money", "'money' would hide payflow.core.money's class of that name"),
        ("provider_http", "'provider_http' would hide payflow.gateway.http's class of that name"),
        ("secret_str", "'secret_str' would hide pydantic's class of that name"),
    ],
)
def test_a_name_that_cannot_be_given_is_refused_and_nothing_is_written(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(NotAProviderName, match=f"^{re.escape(reason)}"):
        write_provider(name, tmp_path, [kind.declaration for kind in provider_classes()])
    assert own_files(tmp_path) == {}


async def test_the_command_says_in_one_line_why_a_name_cannot_be_given(run: Run, folder: Path) -> None:
    done = await run("new-provider", "../acme")
    assert done.code == 1
    assert one_line(done.errors).startswith("payflow: '../acme' is not a name for a provider")
    assert own_files(folder) == {}


async def test_nothing_is_overwritten(run: Run, folder: Path) -> None:
    (folder / "acme.py").write_text("mine")
    done = await run("new-provider", "acme")
    assert (done.code, one_line(done.errors)) == (1, "payflow: acme.py is there already; nothing was written.")
    assert own_files(folder) == {"acme.py": "mine"}
