"""The documents agree with the code: settings, rooms, statuses, commands, links; and nothing private stands in the checkout."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from payflow.core.settings import Settings
from payflow.simulator.settings import SimulatorSettings
from payflow.transactions.lifecycle import COLLECTION, Status

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]

# `#NAME=value` is a setting with its default; `# Text` is prose.
SETTING = re.compile(r"^#?([A-Z][A-Z0-9_]*)=(.*)$")
# Shown with an example, because their default is empty, secret, or made at the start.
EXAMPLES = {
    "DATABASE_URL", "REDIS_URL", "AMQP_URL", "PAYFLOW_PROVIDER_BASE_URLS", "PAYFLOW_PROVIDER_CREDENTIALS",
    "PAYFLOW_CHECK_MIN_INTERVAL_SECONDS", "PAYFLOW_SIMULATOR_MPESA_REQUESTS_PER_MINUTE",
}  # fmt: skip


def names_of(model: type[BaseSettings]) -> dict[str, str]:
    """The environment's name of each field."""
    prefix = model.model_config["env_prefix"]
    names = {}
    for field, info in model.model_fields.items():
        alias = info.validation_alias
        choices = getattr(alias, "choices", [alias]) if alias is not None else []
        upper = [choice for choice in choices if isinstance(choice, str) and choice.isupper()]
        names[field] = upper[0] if upper else f"{prefix}{field}".upper()
    return names


def examples() -> dict[str, list[tuple[str, str]]]:
    """What `.env.example` shows: for each setting its lines as (whole name, value)."""
    shown: dict[str, list[tuple[str, str]]] = {}
    for line in (ROOT / ".env.example").read_text().splitlines():
        if match := SETTING.match(line):
            whole, value = match.groups()
            shown.setdefault(whole.split("__")[0], []).append((whole, value))
    return shown


def section(title: str, text: str = README) -> str:
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(table: str) -> Iterator[list[str]]:
    for line in table.splitlines():
        if line.startswith("|") and not set(line) <= set("|- "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def checkout() -> list[Path]:
    """Every file that is tracked or could be, without what is ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def lines_of(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (UnicodeDecodeError, FileNotFoundError):  # a picture, or gone since it was listed
        return []


def found(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in checkout()
        for number, line in enumerate(lines_of(path), start=1)
        if pattern.search(line)
    ]


def test_env_example_names_every_setting_once_and_none_that_is_unknown() -> None:
    known = {*names_of(Settings).values(), *names_of(SimulatorSettings).values()}
    shown = examples()
    assert set(shown) == known
    lines = [whole for entries in shown.values() for whole, _ in entries]
    assert len(lines) == len(set(lines))


def test_env_example_changes_nothing_as_it_is() -> None:
    assert [line for line in (ROOT / ".env.example").read_text().splitlines() if line and line[0] != "#"] == []


@pytest.mark.parametrize("model", [Settings, SimulatorSettings])
def test_env_example_shows_the_defaults(model: type[BaseSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    shown, names = examples(), names_of(model)
    for name in names.values():
        monkeypatch.delenv(name, raising=False)
    default = model(_env_file=None)  # type: ignore[call-arg]
    compared = {}
    for field, name in names.items():
        [value] = [value for _, value in shown[name]] if name not in EXAMPLES else [""]
        if value:
            monkeypatch.setenv(name, value)
            compared[field] = getattr(default, field)
        elif name not in EXAMPLES:
            assert getattr(default, field) in ("", None), name
    read = model(_env_file=None)  # type: ignore[call-arg]
    assert {field: getattr(read, field) for field in compared} == compared


def test_the_examples_that_are_no_defaults_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EXAMPLES:
        for whole, value in examples()[name]:
            monkeypatch.setenv(whole, value)
    settings = Settings(_env_file=None)
    providers = {"paystack", "stripe", "mpesa", "moniepoint", "standardbank_pay", "cpay", "flutterwave", "vtpass"}
    assert set(settings.provider_credentials) == set(settings.provider_base_urls) == providers
    SimulatorSettings()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            dead.append(target)
    assert dead == []


def anchors(text: str) -> set[str]:
    """Headings as code hosts name them."""
    headings = re.findall(r"^#{1,6} (.+)$", re.sub(r"(?ms)^```.*?^```", "", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_map_holds_every_room_and_no_other() -> None:
    mapped = {name for row in rows(section("The map of the rooms")) for name in re.findall(r"`([a-z]+)`", row[1])}
    source = ROOT / "src" / "payflow"
    rooms = {path.parent.name for path in source.glob("*/*.py")} | {path.stem for path in source.glob("*.py")}
    assert mapped == rooms - {"__init__"}


def test_the_map_ranks_as_the_rule_does() -> None:
    from tests.architecture.rules import RANK

    for row in rows(section("The map of the rooms")):
        for name in re.findall(r"`([a-z]+)`|\[(worker)\]", row[1]):
            assert RANK["".join(name)] == int(row[0]), name


def test_the_status_table_is_the_lifecycle() -> None:
    told: dict[str, list[str]] = {}
    for row in rows(section("Statuses")):
        if name := re.fullmatch(r"`([a-z_]+)`", row[0]):
            told[name[1]] = re.findall(r"`([a-z_]+)`", row[2])
    assert set(told) == {status.value for status in Status}
    assert {name: set(targets) for name, targets in told.items()} == {
        status.value: {target.value for target in COLLECTION.get(status, {})} for status in Status
    }


def test_the_commands_of_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    from payflow.cli.commands import app

    commands = {
        (command.name or command.callback.__name__).replace("_", "-")
        for command in app.registered_commands
        if command.callback is not None
    } | {group.name for group in app.registered_groups}
    for document in DOCUMENTS:
        text = document.read_text()
        assert set(re.findall(r"(?:`|\$ )make ([a-z]+)", text)) <= targets, document.name
        assert set(re.findall(r"(?:`|\$ )payflow ([a-z0-9-]+)", text)) <= commands, document.name


def test_every_provider_is_in_the_readme_and_the_guide() -> None:
    providers = {path.stem for path in (ROOT / "src/payflow/providers").glob("*.py")} - {"__init__"}
    titles = {
        "cpay": "C-Pay",
        "flutterwave": "Flutterwave",
        "moniepoint": "Moniepoint",
        "mpesa": "M-Pesa",
        "paystack": "Paystack",
        "standardbank_pay": "Standard Bank Pay",
        "stripe": "Stripe",
        "vtpass": "VTPass",
    }
    assert providers == set(titles), "name the new provider here, in the README and in docs/providers.md"
    guide = (ROOT / "docs/providers.md").read_text()
    assert all(f"| {title}" in section("Providers") and title in guide for title in titles.values())


def test_the_support_matrix_is_what_the_code_says() -> None:
    from payflow.bootstrap import provider_classes
    from payflow.cli.matrix import support_matrix

    written = (ROOT / "docs/support-matrix.md").read_text()
    assert written == support_matrix(provider_classes(plugins=False)), (
        "docs/support-matrix.md is stale: run `payflow support-matrix --write` in the checkout"
    )


def test_the_support_matrix_names_every_protocol_of_the_contract() -> None:
    from payflow.cli.matrix import CAPABILITIES
    from payflow.gateway import contract

    protocols = {
        value
        for value in vars(contract).values()
        if getattr(value, "_is_protocol", False) and value.__module__ == contract.__name__
    }
    assert protocols - {contract.Provider} == {capability for _, capability in CAPABILITIES}


def test_the_metrics_of_the_guide_are_those_of_the_code() -> None:
    source = "".join(path.read_text() for folder in ("src", "worker") for path in (ROOT / folder).rglob("*.py"))
    named = set(re.findall(r"`((?:payflow|webhook)_[a-z_]+)`", section("Health and figures", operations())))
    unknown = {name for name in named if f'"{name.removesuffix("_total")}"' not in source}
    assert named
    assert unknown == set()


def operations() -> str:
    return (ROOT / "docs/operations.md").read_text()


def test_compose_holds_every_process_and_its_settings_are_known() -> None:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    services = compose["services"]
    assert {"postgres", "redis", "rabbitmq", "migrate", "api", "worker", "simulator", "proxy"} <= set(services)
    known = {*names_of(Settings).values(), *names_of(SimulatorSettings).values()}
    for name in ("migrate", "api", "worker", "simulator"):
        assert {variable.split("__")[0] for variable in services[name]["environment"]} <= known, name
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
    for value in ("PAYFLOW_TRUSTED_PROXIES", "PAYFLOW_ALLOWED_ORIGINS"):
        assert isinstance(json.loads(services["api"]["environment"][value]), list)


def test_what_the_image_copies_is_there_and_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        source
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from=" not in line
        for source in line.split()[1:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in kept, source


def test_no_registry_of_packages_is_named() -> None:
    # Spelled so that this file does not name them either.
    hosts = ("py" + "pi", "python" + "hosted", "npm" + "js", "deb" + "ian", "crates" + "[.]io", "proxy[.]gol" + "ang")
    assert found(re.compile(rf"(?i)(?:{'|'.join(hosts)})[.](?:org|com|io)\b")) == []


def test_no_path_of_somebodys_machine_is_named() -> None:
    folders = ("wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers", "fa" + "rm")
    # A path, not a part of an address: a quote, a blank or a sign stands before it. One letter is nobody's name.
    assert found(re.compile(rf"(?:^|[\s\"'`(=:])/(?:{'|'.join(folders)})/[\w.-]{{2}}")) == []
