"""`payflow new-provider`: an adapter, its test and a simulator to begin with. They pass the contract suite as they are.

In a checkout of PayFlow they go to their rooms; anywhere else they become a package of its own, found by its entry point.
"""

import ast
import importlib.util
import keyword
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from string import Template

from payflow.aliases.endpoints import CARD_NAMES
from payflow.gateway.contract import Declaration
from payflow.webhooks.endpoints import BY_SIGNATURE

NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")


class NotAProviderName(ValueError):
    """The name cannot be given to a new provider."""


def write_provider(name: str, folder: Path, taken: Iterable[Declaration]) -> list[Path]:
    """The files written. NotAProviderName; nothing is overwritten."""
    in_checkout = (folder / "src" / "payflow" / "providers").is_dir()
    path_name = re.sub(r"[^a-z]", "", name)
    _refuse(name, path_name, list(taken))
    files = _files(name, path_name, in_checkout)
    _refuse_shadowing(name, files.values())
    existing = [str(path) for path in files if (folder / path).exists()]
    if existing:
        raise NotAProviderName(f"{', '.join(existing)} is there already; nothing was written.")
    if not in_checkout and importlib.util.find_spec(name) is not None:
        raise NotAProviderName(f"There is a Python module {name!r} already.")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return [folder / path for path in files]


def _refuse(name: str, path_name: str, taken: list[Declaration]) -> None:
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise NotAProviderName(
            f"{name!r} is not a name for a provider: 2 to 40 lower-case letters, digits and underscores, a letter first, "
            "and no word of Python's own."
        )
    if path_name == BY_SIGNATURE:
        raise NotAProviderName(f"Webhooks would come to {path_name!r}, an older address that all providers share.")
    if name in CARD_NAMES:
        raise NotAProviderName(f"{name!r} is an older name for paying by card.")
    for declaration in taken:
        if declaration.name == name:
            raise NotAProviderName(f"There is a provider {name!r} already ({declaration.title}).")
        if declaration.path_name == path_name:
            raise NotAProviderName(f"Webhooks of {declaration.name!r} come to {path_name!r} already.")


def _refuse_shadowing(name: str, texts: Iterable[str]) -> None:
    """The provider's class must not hide what its own file imports."""
    trees = [ast.parse(text) for text in texts if not text.startswith("[")]
    classes = {node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    own = (name, f"payflow.providers.{name}")
    for node in (node for tree in trees for node in tree.body if isinstance(node, ast.ImportFrom)):
        if node.module not in own and classes & {alias.name for alias in node.names}:
            raise NotAProviderName(f"{name!r} would hide {node.module}'s class of that name, which a provider needs.")


def _files(name: str, path_name: str, in_checkout: bool) -> dict[Path, str]:
    words = name.strip("_").split("_")
    kind = "".join(word.capitalize() for word in words)
    simulator = "simulated" if in_checkout else f"{name}_simulator"
    adapter = f"import {kind}, {kind}Credentials"
    plug_in = () if in_checkout else (f"import {simulator}", f"from {name} {adapter}")
    values = {
        "name": name,
        "Class": kind,
        "title": " ".join(word.capitalize() for word in words if word),
        "path_name": path_name,
        "dashed": name.replace("_", "-"),
        "simulator": simulator,
        "third_party_imports": _sorted_imports("import httpx", "from pydantic import SecretStr", *plug_in),
        "checkout_imports": f"from payflow.providers.{name} {adapter}\nfrom payflow.simulator import {name} as simulated\n"
        if in_checkout
        else "from tests.providers.conftest import pytest_generate_tests  # noqa: F401 - spreads the tables over the tests\n",
    }
    if in_checkout:
        places = {
            "adapter": f"src/payflow/providers/{name}.py",
            "test": f"tests/providers/test_provider_{name}.py",
            "simulator": f"src/payflow/simulator/{name}.py",
        }
    else:
        places = {
            "pyproject": "pyproject.toml",
            "adapter": f"{name}.py",
            "test": f"test_{name}.py",
            "simulator": f"{name}_simulator.py",
        }
    templates = resources.files("payflow.cli") / "templates"
    return {
        Path(place): Template((templates / f"{template}.template").read_text()).substitute(values)
        for template, place in places.items()
    }


def _sorted_imports(*lines: str) -> str:
    """As the import sorter wants them, whatever the provider is called."""
    return "\n".join(sorted(lines, key=lambda line: (line.startswith("from"), line)))
