"""The shape of the code is tested like its behaviour. Each rule is shown to fail on a snippet that breaks it."""

import ast
from collections.abc import Callable

import pytest

from payflow.simulator.outcomes import PROVIDERS
from tests.architecture.rules import (
    RANK,
    ROOT,
    Module,
    fastapi_out_of_place,
    hidden_imports,
    imported,
    imports_providers,
    made_at_import,
    modules,
    provider_reaches_out,
    simulator_knows_adapters,
    sql_out_of_place,
    upward,
    vague_name,
    worker_names_providers,
)

Rule = Callable[[Module], list[str]]
PROVIDER_NAMES = frozenset({*PROVIDERS, "flutterwave", "monnify", "moniepoint", "vtpass", "cpay", "daraja"})


def no_provider_name(module: Module) -> list[str]:
    return worker_names_providers(module, PROVIDER_NAMES)


RULES: list[Rule] = [
    upward,
    provider_reaches_out,
    imports_providers,
    simulator_knows_adapters,
    fastapi_out_of_place,
    sql_out_of_place,
    hidden_imports,
    made_at_import,
    no_provider_name,
    vague_name,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_the_rule(rule: Rule) -> None:
    assert [violation for module in modules() for violation in rule(module)] == []


BREACHES: list[tuple[Rule, str, str]] = [
    (upward, "src/payflow/core/money.py", "from payflow.infra.redis import Redis"),
    (upward, "src/payflow/ledger/service.py", "import payflow.transactions.settle"),
    (upward, "src/payflow/transactions/checks.py", "from payflow.payments.service import PaymentService"),
    (upward, "src/payflow/events/types.py", "from payflow.idempotency import service"),
    (upward, "src/payflow/main.py", "from payflow.simulator.app import create_simulator"),
    (upward, "src/payflow/bootstrap.py", "from worker.app import Worker"),
    (upward, "src/payflow/payments/service.py", "from payflow import webhooks"),
    (upward, "src/payflow/payments/service.py", "from payflow.extras import anything"),
    (upward, "src/payflow/extras/service.py", ""),
    (provider_reaches_out, "src/payflow/providers/paystack.py", "from payflow.providers.stripe import Stripe"),
    (provider_reaches_out, "src/payflow/providers/paystack.py", "from . import stripe"),
    (provider_reaches_out, "src/payflow/providers/paystack.py", "from sqlalchemy.ext.asyncio import AsyncSession"),
    (provider_reaches_out, "src/payflow/providers/paystack.py", "from payflow.gateway.models import ProviderConfigRow"),
    (provider_reaches_out, "src/payflow/providers/paystack.py", "from payflow.infra.database import Database"),
    (imports_providers, "src/payflow/payments/service.py", "from payflow.providers import paystack"),
    (imports_providers, "worker/app.py", "import payflow.providers.stripe"),
    (simulator_knows_adapters, "src/payflow/simulator/paystack.py", "from payflow.gateway.signing import verify_hmac_hex"),
    (simulator_knows_adapters, "src/payflow/simulator/stripe.py", "import payflow.providers.stripe"),
    (fastapi_out_of_place, "src/payflow/payments/service.py", "from fastapi import Request"),
    (fastapi_out_of_place, "src/payflow/payments/schemas.py", "import fastapi.params"),
    (sql_out_of_place, "src/payflow/payments/service.py", 'QUERY = "SELECT id FROM transactions"'),
    (sql_out_of_place, "worker/timers.py", 'x = """\n    UPDATE transactions SET status = $1\n"""'),
    (sql_out_of_place, "src/payflow/payments/service.py", 'def f(t):\n    return f"DELETE FROM {t} WHERE id = $1"'),
    (hidden_imports, "src/payflow/payments/service.py", "def f():\n    from payflow.core import money"),
    (hidden_imports, "src/payflow/payments/service.py", "async def f():\n    if True:\n        import json"),
    (made_at_import, "src/payflow/main.py", "app = FastAPI()"),
    (made_at_import, "src/payflow/payments/endpoints.py", "router = fastapi.APIRouter(prefix='/x')"),
    (made_at_import, "src/payflow/core/settings.py", "settings: Settings = Settings()"),
    (made_at_import, "src/payflow/web/metrics.py", "class M:\n    registry = CollectorRegistry()"),
    (made_at_import, "src/payflow/infra/redis.py", "def f(redis=Redis.from_url('x')):\n    pass"),
    (made_at_import, "src/payflow/infra/database.py", "DATABASES = [Database(url) for url in ()]"),
    (no_provider_name, "worker/timers.py", 'if name == "paystack": pass'),
    (no_provider_name, "worker/timers.py", "services.mpesa.check()"),
    (vague_name, "src/payflow/payments/utils.py", ""),
    (vague_name, "src/payflow/common/money.py", ""),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "path", "source"), BREACHES)
def test_the_rule_sees_a_breach(rule: Rule, path: str, source: str) -> None:
    assert rule(Module(path, source)) != []


KEPT: list[tuple[Rule, str, str]] = [
    (upward, "src/payflow/transactions/service.py", "from payflow.idempotency.repository import finish"),
    (upward, "src/payflow/core/money.py", "from payflow import __version__"),
    (provider_reaches_out, "src/payflow/providers/paystack.py", "from payflow.gateway.http import ProviderHttp"),
    (imports_providers, "src/payflow/bootstrap.py", "import payflow.providers"),
    (sql_out_of_place, "src/payflow/payments/service.py", '"""SELECT a provider FROM those that fit."""'),
    (made_at_import, "src/payflow/main.py", "def create_app():\n    return FastAPI()"),
    (made_at_import, "src/payflow/main.py", "make = lambda: Settings()"),
    (made_at_import, "worker/__main__.py", "if __name__ == '__main__':\n    Worker(Settings())"),
]


@pytest.mark.parametrize(("rule", "path", "source"), KEPT)
def test_the_rule_lets_pass_what_is_right(rule: Rule, path: str, source: str) -> None:
    assert rule(Module(path, source)) == []


def test_every_room_has_a_rank() -> None:
    assert {module.room for module in modules()} <= RANK.keys()


def test_the_folder_of_migrations_is_no_package() -> None:
    assert list((ROOT / "alembic").rglob("__init__.py")) == []


def test_each_provider_is_one_file() -> None:
    found = {module.path for module in modules() if module.room == "providers" and module.name != "__init__.py"}
    assert {f"src/payflow/providers/{name}.py" for name in PROVIDERS} <= found
    assert all(path.count("/") == 3 for path in found)


# -- the one way for a transaction to move ------------------------------------------------------------------------------


def _functions(module: Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _calls_by_name(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


INSIDE = ("transactions/settle.py", "transactions/refunds.py", "transactions/holds.py")


def callers_of_move(sources: list[Module]) -> set[str]:
    """Who reaches `move`: public functions of INSIDE, directly or through private ones, and other files."""
    inside = [
        module
        for module in sources
        if module.path.endswith(("transactions/settle.py", "transactions/refunds.py", "transactions/holds.py"))
    ]
    public = set()
    for module in inside:
        reaches = {function.name: _calls_by_name(function) for function in _functions(module)}
        # The table of handlers stands for the call of any of them.
        reaches = {
            name: used
            | ({other for other in reaches if other in _calls_by_name(module.tree)} if "_BY_VERDICT" in used else set())
            for name, used in reaches.items()
        }
        found = {"move"}
        while more := {name for name, used in reaches.items() if used & found} - found:
            found |= more
        room = module.path.rpartition("/")[2].removesuffix(".py")
        public |= {f"{room}.{name}" for name in found - {"move"} if not name.startswith("_")}
    elsewhere = {
        module.path
        for module in sources
        if module not in inside and not module.path.endswith("transactions/move.py")
        for name in imported(module.tree)
        if name == "payflow.transactions.move.move" or name == "payflow.transactions.move"
    }
    return public | elsewhere


FEW = {
    "settle.settle",
    "settle.suspend_unconfirmed",
    "settle.cancel",
    "settle.expire",
    "settle.resolve_review",
    "refunds.open_refund",
    "refunds.settle_refund",
    "refunds.give_up_refund",
    "refunds.resolve_refund",
    "holds.set_aside",
    "holds.follow",
    "holds.capture",
    "holds.release",
    "holds.give_back",
    "holds.approved",
    "holds.credited",
    "holds.debited",
    "holds.frozen",
}


def test_move_has_few_callers() -> None:
    assert callers_of_move(modules()) == FEW


def test_one_more_caller_of_move_would_be_seen() -> None:
    named = {module.path.rpartition("/")[2]: module for module in modules() if "transactions/" in module.path}
    settle = Module(
        named["settle.py"].path, named["settle.py"].source + "\n\ndef hurry(unit):\n    _fail(unit, None)\n"
    )
    elsewhere = Module("src/payflow/payments/service.py", "from payflow.transactions.move import move")
    found = callers_of_move([settle, named["refunds.py"], named["holds.py"], elsewhere])
    assert found == FEW | {"settle.hurry", "src/payflow/payments/service.py"}


def test_only_settle_settles_refunds() -> None:
    callers = {
        module.path
        for module in modules()
        for name in imported(module.tree)
        if name == "payflow.transactions.refunds.settle_refund"
    }
    assert callers == {"src/payflow/transactions/settle.py"}


def writers_of_state(sources: list[Module]) -> set[str]:
    """Files that assign a transaction's status or version in memory."""
    found = set()
    for module in sources:
        if module.room == "simulator":
            continue  # its transactions are the provider's
        for node in ast.walk(module.tree):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Attribute) and target.attr in ("status", "version", "last_cause"):
                    owner = target.value
                    name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
                    if name in ("transaction", "unit", "row"):
                        found.add(f"{module.path} {name}.{target.attr}")
    return found


def test_only_move_assigns_the_status_and_version_of_a_transaction() -> None:
    assert writers_of_state(modules()) == {
        "src/payflow/transactions/move.py transaction.status",
        "src/payflow/transactions/move.py transaction.version",
        "src/payflow/transactions/move.py transaction.last_cause",
    }


def test_another_writer_of_the_status_would_be_seen() -> None:
    other = Module("src/payflow/payments/service.py", "unit.transaction.status = Status.COMPLETED")
    assert writers_of_state([other]) == {"src/payflow/payments/service.py transaction.status"}


def _updates(module: Module) -> list[str]:
    """The SET lists of every UPDATE of `transactions` in a file."""
    text = " ".join(module.source.split())
    parts = text.split("UPDATE transactions ")[1:]
    return [part.split(" FROM ")[0].split(" WHERE ")[0] for part in parts]


def test_one_statement_writes_status_and_version() -> None:
    moving = [
        (module.path, update)
        for module in modules()
        for update in _updates(module)
        if "status =" in update.replace("paid_status =", "") or "version =" in update
    ]
    assert [path for path, _ in moving] == ["src/payflow/transactions/repository.py"]
    others = [update for module in modules() for update in _updates(module) if (module.path, update) not in moving]
    assert len(others) == 2
    assert all("SET next_check_at = " in update and update.count("=") == 1 for update in others)


def test_events_of_a_transaction_are_written_by_its_statements_only() -> None:
    writers = {module.path for module in modules() if "INSERT INTO events" in module.source}
    # `events.repository` appends those that belong to no transaction.
    assert writers == {"src/payflow/transactions/repository.py", "src/payflow/events/repository.py"}
