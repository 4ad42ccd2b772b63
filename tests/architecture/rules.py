"""The rules of the design as functions over source text: each gives the violations it found, so that a test can feed it one."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

# From the bottom to the top (design §2). A room imports rooms of lower layers only; rooms of one layer never touch.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"core"}),
    frozenset({"infra"}),
    frozenset({"events", "idempotency"}),
    frozenset({"web"}),
    frozenset({"identity"}),
    frozenset({"gateway"}),
    frozenset({"providers"}),
    frozenset({"ledger"}),
    frozenset({"transactions"}),
    frozenset({"payments", "payouts", "airtime"}),
    frozenset({"wallets", "webhooks"}),
    frozenset({"realtime", "notifications", "reconciliation"}),
    frozenset({"dashboard", "checkout", "aliases"}),
    frozenset({"bootstrap"}),
    frozenset({"main", "simulator"}),
    frozenset({"worker"}),
    frozenset({"cli"}),
)
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}
PAGES = ("dashboard", "checkout")
# Calls that make something which lives: a module holds none, or two apps in one process would share it.
LIVING = frozenset(
    {
        "FastAPI", "Starlette", "APIRouter", "Database", "Settings", "SimulatorSettings", "CollectorRegistry", "Counter",
        "Gauge", "Histogram", "Redis", "connect_redis", "from_url", "AsyncClient", "ClientSession", "create_async_engine",
        "build_services", "create_app", "build_client", "Lock", "Semaphore", "Event", "Queue", "create_task",
        "configure_logging", "basicConfig",
    }
)  # fmt: skip
STATEMENT = re.compile(
    r"(?s)^\s*(SELECT\s.*\sFROM\s|INSERT\s+INTO\s|UPDATE\s+\S+\s+(\S+\s+)?SET\s|DELETE\s+FROM\s|WITH\s+\w+\s+AS\s*\()"
)


@dataclass(frozen=True)
class Module:
    """One source file: its place in the checkout, and what is written in it."""

    path: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def room(self) -> str:
        parts = Path(self.path).with_suffix("").parts
        inner = parts[2:] if parts[:2] == ("src", "payflow") else parts
        return inner[0]

    @property
    def name(self) -> str:
        return Path(self.path).name


@cache
def modules() -> list[Module]:
    """Every module of the project, but not `payflow/__init__.py`, which only holds the version."""
    files = [*(ROOT / "src" / "payflow").rglob("*.py"), *(ROOT / "worker").rglob("*.py")]
    paths = [str(file.relative_to(ROOT)) for file in sorted(files)]
    return [Module(path, (ROOT / path).read_text()) for path in paths if path != "src/payflow/__init__.py"]


def imported(tree: ast.AST, package: str = "") -> Iterator[str]:
    """Dotted names of all that is imported, at any depth; relative imports are taken as from `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package if node.level else "", node.module or ""]))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rooms_imported(module: Module) -> set[str]:
    found = set()
    for name in imported(module.tree, f"payflow.{module.room}"):
        parts = name.split(".")
        if parts[0] == "payflow" and len(parts) > 1 and parts[1] in RANK:
            found.add(parts[1])
        elif parts[0] == "payflow" and len(parts) > 1 and not parts[1].startswith("__"):
            found.add(f"unranked {parts[1]}")
        elif parts[0] == "worker":
            found.add("worker")
    return found - {module.room}


def upward(module: Module) -> list[str]:
    """Imports of a room that does not lie strictly below."""
    if module.room not in RANK:
        return [f"{module.path}: room {module.room!r} has no rank"]
    return [
        f"{module.path} imports {room}"
        for room in sorted(rooms_imported(module))
        if RANK.get(room, len(LAYERS)) >= RANK[module.room]
    ]


def provider_reaches_out(module: Module) -> list[str]:
    """A provider knows the gateway and core; no sibling, no row, no session, no request."""
    if module.room != "providers":
        return []
    ours = [name for name in imported(module.tree, "payflow.providers") if name.startswith(("payflow.", "worker"))]
    foreign = [
        name for name in imported(module.tree) if name.split(".")[0] in ("sqlalchemy", "asyncpg", "fastapi", "redis")
    ]
    bad = [name for name in ours if not name.startswith(("payflow.gateway.", "payflow.core."))]
    rows = [name for name in ours if re.search(r"[.](repository|models|endpoints|credentials|registry)([.]|$)", name)]
    return [f"{module.path} imports {name}" for name in sorted({*bad, *rows, *foreign})]


def imports_providers(module: Module) -> list[str]:
    if module.room in ("bootstrap", "providers"):
        return []
    return [f"{module.path} imports providers"] if "providers" in rooms_imported(module) else []


def simulator_knows_adapters(module: Module) -> list[str]:
    """The simulator signs and names statuses by itself, else it would only prove itself."""
    if module.room != "simulator":
        return []
    return [f"{module.path} imports {room}" for room in sorted(rooms_imported(module) & {"providers", "gateway"})]


def fastapi_out_of_place(module: Module) -> list[str]:
    allowed = module.name == "endpoints.py" or module.room in ("web", "identity", "main", *PAGES)
    names = {name.split(".")[0] for name in imported(module.tree)}
    return [] if allowed or "fastapi" not in names else [f"{module.path} imports fastapi"]


def sql_out_of_place(module: Module) -> list[str]:
    """Text that is a statement, where none belongs. Docstrings are prose."""
    if module.name in ("repository.py", "models.py") or module.room == "infra":
        return []
    tree = module.tree
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        f"{module.path}:{node.lineno} holds SQL"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        and STATEMENT.search(node.value)
    ]


def hidden_imports(module: Module) -> list[str]:
    """An import inside a function hides a circle."""
    return [
        f"{module.path}:{node.lineno} imports inside {function.name}"
        for function in ast.walk(module.tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def made_at_import(module: Module) -> list[str]:
    """Living things made while the module is read: by a statement of the module or of a class body."""
    return [
        f"{module.path}:{node.lineno} makes {_called(node)} at import"
        for statement in _read_at_import(module.tree.body)
        for node in _calls(statement)
        if _called(node) in LIVING
    ]


def _read_at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (*statement.decorator_list, *statement.args.defaults, *filter(None, statement.args.kw_defaults))
        elif isinstance(statement, ast.ClassDef):
            yield from statement.decorator_list
            yield from _read_at_import(statement.body)
        elif isinstance(statement, ast.If) and "__name__" in ast.dump(statement.test):
            continue
        else:
            yield statement


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """Calls within a node, but not within a lambda, which runs later."""
    if isinstance(node, ast.Lambda):
        return
    if isinstance(node, ast.Call):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _calls(child)


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def worker_names_providers(module: Module, names: frozenset[str]) -> list[str]:
    """The worker moves messages; what a provider is called is none of its business."""
    if module.room != "worker":
        return []
    words = {word for node in ast.walk(module.tree) for word in _words(node)}
    return [f"{module.path} names {name}" for name in sorted(words & names)]


def _words(node: ast.AST) -> Iterator[str]:
    for value in (getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "value", None)):
        if isinstance(value, str):
            yield from re.findall(r"[a-z]+", value.lower())


def vague_name(module: Module) -> list[str]:
    stems = set(Path(module.path).with_suffix("").parts)
    return [
        f"{module.path} is called {stem}" for stem in sorted(stems & {"utils", "helpers", "common", "manager", "util"})
    ]
