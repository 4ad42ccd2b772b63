"""The commands. Each imports nothing at run time and does one thing; what they need is made by `build_services`."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from payflow import __version__
from payflow.bootstrap import ProviderNamedTwice, Services, build_services, provider_classes
from payflow.cli import credentials as sealed_credentials
from payflow.cli import settlement
from payflow.cli.books import books_table
from payflow.cli.demo import Demo, demo_settings
from payflow.cli.matrix import support_matrix
from payflow.cli.scaffold import NotAProviderName, write_provider
from payflow.cli.serving import PortTaken, serve
from payflow.cli.stack import ADMIN_EMAIL, DEMO_EMAIL, DEMO_PASSWORD, Stack, running_stack
from payflow.core.errors import Conflict, PayFlowError
from payflow.core.logging import configure_logging
from payflow.core.runtime import run, spare_the_collector
from payflow.core.settings import Settings
from payflow.gateway.contract import RegistersUrls, Verdict
from payflow.infra import migrations
from payflow.infra.database import DatabaseAway, NotPostgres
from payflow.infra.embedded import EmbeddedError
from payflow.infra.queue.dead_letters import DeadLetter
from payflow.infra.queue.port import WEBHOOKS, QueueAway
from payflow.main import create_app
from payflow.reconciliation.service import RepairKind
from payflow.simulator.app import create_simulator
from payflow.simulator.settings import SimulatorNotAllowed, SimulatorSettings
from payflow.transactions.books.endpoints import books_json
from worker.app import Worker

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="PayFlow.")
dead_letters_app = typer.Typer(no_args_is_help=True, help="Webhooks that could not be worked on.")
app.add_typer(dead_letters_app, name="dead-letters")
reconcile_app = typer.Typer(
    cls=settlement.FileFirst, no_args_is_help=True, help="A provider's settlement file against transactions and ledger."
)
app.add_typer(reconcile_app, name="reconcile")


PATIENCE_SECONDS = 5.0
REPLAYED_AT_ONCE = 100
MENDABLE = (
    PortTaken,
    EmbeddedError,
    SimulatorNotAllowed,
    PayFlowError,
    DatabaseAway,
    NotPostgres,
    QueueAway,
    NotAProviderName,
    ProviderNamedTwice,
)


def main() -> None:
    """Runs a command; what a user can mend is said in one line, without a trace."""
    try:
        app()
    except MENDABLE as error:
        sys.exit(f"payflow: {error}")
    except ValidationError as error:
        messages = (str(entry["msg"]).removeprefix("Value error, ") for entry in error.errors(include_input=False))
        sys.exit("payflow: " + "; ".join(messages))
    except SettingsError as error:
        sys.exit(f"payflow: {error} (a list or mapping is written as JSON)")


@app.command()
def dev() -> None:
    """Start API, worker and simulator in one process."""
    settings = Settings()
    configure_logging("WARNING" if settings.log_level == "INFO" else settings.log_level)
    asyncio.run(_dev(settings))


async def _dev(settings: Settings) -> None:
    async with running_stack(settings) as stack:
        await _demo_users(stack.services)
        _greet(stack)
        await _until_stopped()
        print("Stopping.", flush=True)


def _greet(stack: Stack) -> None:
    lines = [
        f"{stack.url}/api/v1",
        f"  docs        {stack.url}/docs   {stack.url}/redoc   {stack.url}/openapi.json",
        f"  demo login  {DEMO_EMAIL} / {DEMO_PASSWORD}   (administrator: {ADMIN_EMAIL}, same password)",
        f"  simulator   {stack.simulator_url}   (magic amounts: {stack.simulator_url}/_control/outcomes)",
        *(f"  {part:<11} {where}" for part, where in stack.parts.items()),
        "Ctrl-C stops it.",
    ]
    print("\n".join(lines), flush=True)


async def _demo_users(services: Services) -> None:
    for make, email, name in (
        (services.identity.register, DEMO_EMAIL, "Demo Merchant"),
        (services.identity.create_admin, ADMIN_EMAIL, "Demo Administrator"),
    ):
        try:
            await make(email, DEMO_PASSWORD, name)
        except Conflict:
            continue  # made at an earlier start


@app.command()
def demo(
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a payment to end.")] = 30.0,
) -> None:
    """Take payments and give some back, fill a wallet and spend from it, at simulated providers, and check it all live."""
    settings = demo_settings(Settings())
    configure_logging(settings.log_level)
    raise typer.Exit(asyncio.run(_demo(settings, timeout)))


async def _demo(settings: Settings, timeout: float) -> int:
    print("Starting PayFlow …", flush=True)
    async with running_stack(settings, any_port=True) as stack:
        return await Demo(stack, timeout_seconds=timeout).run()


@app.command()
def api() -> None:
    """Serve the API (DATABASE_URL and REDIS_URL must be set)."""
    settings = _configured()
    configure_logging(settings.log_level)
    serve("payflow.main:app_from_environment", settings.host, settings.port, "PAYFLOW_PORT", factory=True)


@app.command()
def worker() -> None:
    """Work on webhooks and timers (the same as `python -m worker`)."""
    settings = _configured()
    configure_logging(settings.log_level)
    run(_worker(settings))


async def _worker(settings: Settings) -> None:
    work = Worker(build_services(settings))
    spare_the_collector()
    await work.run()


@app.command()
def simulator() -> None:
    """Serve the simulated providers; refuses to run in production."""
    settings = SimulatorSettings()
    configure_logging("INFO")
    serve(create_simulator(settings), settings.host, settings.port, "PAYFLOW_SIMULATOR_PORT")


@app.command()
def migrate(revision: Annotated[str, typer.Argument(help="Up to this revision.")] = "head") -> None:
    """Bring the database at DATABASE_URL to the newest schema."""
    settings = _configured()
    asyncio.run(migrations.upgrade(settings.database_url, revision))
    print(f"The database is at {revision}.")


@app.command()
def create_admin(
    email: Annotated[str, typer.Option(prompt=True)],
    name: Annotated[str, typer.Option(prompt=True)],
    password: Annotated[str, typer.Option(prompt=True, hide_input=True, confirmation_prompt=True)],
) -> None:
    """Make an administrator."""

    async def work(services: Services) -> None:
        user = await services.identity.create_admin(email, password, name)
        print(f"Made administrator {user.email} ({user.id}).")

    _with_services(work)


@app.command()
def rotate_keys(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Seal all stored credentials under the current key; safe to run again, also after it was broken off."""

    async def work(services: Services) -> None:
        if not await sealed_credentials.rotate_keys(services, dry_run=dry_run):
            raise typer.Exit(1)

    _with_services(work)


@app.command()
def register_c2b(
    provider: Annotated[str | None, typer.Argument(help="Its name; not needed where only one has such URLs.")] = None,
) -> None:
    """Tell a provider where payments go that customers start alone (M-Pesa's C2B)."""

    async def work(services: Services) -> None:
        name, registers = _registering(services, provider)
        credentials = await services.registry.credentials(name)
        if credentials is None:
            sys.exit(f"payflow: {name} is not configured.")
        declaration, urls = services.registry.declaration(name), services.callback_urls
        result = await registers.register_c2b_urls(
            urls.confirmation(declaration), urls.validation(declaration), credentials.current
        )
        if result.verdict is not Verdict.COMPLETED:
            why = result.failure.message if result.failure else "The provider did not say why."
            sys.exit(f"payflow: {name} did not register the URLs ({result.verdict}: {result.raw_status}). {why}")
        # The URLs are secrets: who knows them can tell of payments.
        print(f"{name}: payments nobody ordered are told to {services.settings.public_url} from now on.")

    _with_services(work)


def _registering(services: Services, wanted: str | None) -> tuple[str, RegistersUrls]:
    able: dict[str, RegistersUrls] = {}
    for name in services.registry.names:
        provider = services.registry.get(name)
        if isinstance(provider, RegistersUrls):
            able[name] = provider
    if wanted is None and len(able) == 1:
        return next(iter(able.items()))
    if wanted not in able:
        sys.exit(f"payflow: name one of: {', '.join(able)}")
    return wanted, able[wanted]


@app.command()
def import_credentials(
    admin: Annotated[str, typer.Option(help="Email of the administrator in whose name they are stored.")],
) -> None:
    """Store the environment's credentials of each provider that has none stored; others are left alone."""

    async def work(services: Services) -> None:
        await sealed_credentials.import_credentials(services, admin)

    _with_services(work)


@app.command()
def new_provider(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and underscores, such as acme_pay.")],
    folder: Annotated[
        Path, typer.Option(help="A checkout of PayFlow, or where a package of its own shall be.")
    ] = Path(),
) -> None:
    """Write an adapter, its test and a simulator that pass the contract suite, to begin a provider with."""
    for path in write_provider(name, folder, [kind.declaration for kind in provider_classes()]):
        print(f"Wrote {path}")
    print("Next: docs/providers.md, the adapter's tables, and a case in the test for every line of them.")


@app.command("support-matrix")
def print_support_matrix(
    write: Annotated[bool, typer.Option("--write", help="Into docs/support-matrix.md of the checkout here.")] = False,
) -> None:
    """Print what each provider of PayFlow's own can do."""
    page = support_matrix(provider_classes(plugins=False))
    if not write:
        print(page, end="")
    elif Path("docs").is_dir():
        Path("docs/support-matrix.md").write_text(page)
    else:
        sys.exit("payflow: There is no folder docs here: run it in a checkout.")


@app.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    settings = Settings(database_url="postgresql://localhost/none", redis_url="redis://localhost:1/0")

    async def document() -> bytes:
        services = build_services(settings)
        try:
            return orjson.dumps(create_app(services).openapi(), option=orjson.OPT_INDENT_2)
        finally:
            await services.close()

    print(asyncio.run(document()).decode())


@app.command()
def doctor() -> None:
    """Check settings and what they point to, and name what is wrong."""

    async def work(services: Services) -> None:
        await services.start()
        checks: list[tuple[str, Any]] = [("database", services.database.ping), ("redis", services.redis.ping)]
        checks += [(queue.name, queue.ping) for queue in services.queue.queues]
        troubles = await asyncio.gather(*(_trouble(check) for _, check in checks))
        for (name, _), trouble in zip(checks, troubles, strict=True):
            print(f"DOWN  {name}: {trouble}" if trouble else f"ok    {name}")
        for name in services.registry.names:
            configured = await services.registry.credentials(name)
            print(f"{'ok   ' if configured else '-    '} provider {name}{'' if configured else ': not configured'}")
        if any(troubles):
            raise typer.Exit(1)

    print(f"PayFlow {__version__}")
    _with_services(work)


@app.command("books")
def check_books(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Check whether ledger, wallets, holds and transactions agree; exit 1 if they do not."""

    async def work(services: Services) -> None:
        books = await services.books.check()
        print(orjson.dumps(books_json(books), option=orjson.OPT_INDENT_2).decode() if as_json else books_table(books))
        if not books.clean:
            raise typer.Exit(1)

    _with_services(work)


async def _trouble(check: Any) -> str | None:
    """What keeps a server from answering; None when it does. Queues connect in the background, which takes a moment."""
    end = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        try:
            async with asyncio.timeout_at(end):
                await check()
            return None
        except QueueAway as error:
            if asyncio.get_running_loop().time() >= end:
                return type(error).__name__
            await asyncio.sleep(0.1)
        except Exception as error:
            return type(error).__name__


@dead_letters_app.command("list")
def list_dead_letters(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Continue after this one.")] = None,
    replayed: Annotated[bool, typer.Option(help="Also those that were replayed.")] = False,
) -> None:
    """List them, newest first."""

    async def work(services: Services) -> None:
        page = await services.dead_letters.list(WEBHOOKS, limit=limit, cursor=cursor, include_replayed=replayed)
        for letter in page.items:
            _print_letter(letter)
        if page.next_cursor:
            print(f"More: --cursor {page.next_cursor}")

    _with_services(work)


@dead_letters_app.command("replay")
def replay_dead_letters(
    dead_letter_id: Annotated[UUID | None, typer.Argument(help="One of them; or say which by the options.")] = None,
    provider: Annotated[str | None, typer.Option(help="All of this provider.")] = None,
    reason: Annotated[str | None, typer.Option(help="All whose reason begins so.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, oldest first.")] = 1_000,
    dry_run: Annotated[bool, typer.Option(help="Only show which they are.")] = False,
) -> None:
    """Put one back into the queue, or all that fit."""
    if (dead_letter_id is None) == (provider is reason is None):
        raise typer.BadParameter("name a dead letter, or say which by --provider and --reason")

    async def work(services: Services) -> None:
        letters = services.dead_letters
        if dead_letter_id is None:
            found, more = await letters.matching(
                WEBHOOKS, services.clock(), provider=provider, reason=reason, limit=limit
            )
        else:
            found, more = [await letters.get(dead_letter_id)], False
        if dry_run:
            for letter in found:
                _print_letter(letter)
            print(f"{len(found)} would be replayed." + (" More fit: raise --limit." if more else ""))
            return
        await services.start()
        await _trouble(services.queue.primary.ping)  # a broker that is away leaves it to the spool
        if dead_letter_id is not None:
            message = await letters.replay(dead_letter_id, services.queue, "cli")
            print(f"Replayed as message {message.id}.")
            return
        done = 0
        for start in range(0, len(found), REPLAYED_AT_ONCE):
            done += len(await letters.replay_each(found[start : start + REPLAYED_AT_ONCE], services.queue, "cli"))
            print(
                f"{done} of {len(found)} replayed." + (" More fit." if more and done == len(found) else ""), flush=True
            )
        if not found:
            print("None fits.")

    _with_services(work)


def _print_letter(letter: DeadLetter) -> None:
    provider = letter.message.headers.get("provider", "-")
    print(f"{letter.id}  {letter.dead_at:%Y-%m-%d %H:%M:%S}  {provider:<12} {letter.reason}")


@reconcile_app.command("file")
def reconcile_file(
    provider: Annotated[str, typer.Argument(help="paystack, flutterwave, stripe or mpesa.")],
    file: Annotated[Path, typer.Argument(help="The CSV that the provider exported.")],
    since: Annotated[str, typer.Option("--from", help="A day or time; else the day of the file's first line.")] = "",
    until: Annotated[str, typer.Option("--to", help="A day, which is included, or a time; else the last line's.")] = "",
    form: Annotated[settlement.Form, typer.Option("--format", help="How the differences are told.")] = (
        settlement.Form.TABLE
    ),
    output: Annotated[Path | None, typer.Option(help="Write them there.")] = None,
) -> None:
    """Compare a file (the word `file` may be left out). Ends with 0 if all agrees, 1 with differences, 2 if it is unreadable."""

    async def work(services: Services) -> None:
        raise typer.Exit(await settlement.reconcile(services, provider, file, since, until, form, output))

    _with_services(work)


@reconcile_app.command("repair")
def reconcile_repair(
    provider: Annotated[str, typer.Argument(help="paystack, flutterwave, stripe or mpesa.")],
    file: Annotated[Path, typer.Argument(help="The file that shows the difference.")],
    line: Annotated[int, typer.Option(min=1, max=2**31 - 1, help="The line of the file, as the report names it.")],
    kind: Annotated[
        RepairKind,
        typer.Option(help="What lacks: `fee`; money nobody knows: `suspense`; what became known since: `release`."),
    ],
    reason: Annotated[str, typer.Option(help="Why; it stays with the journal.")],
    admin: Annotated[str, typer.Option(help="Email of the administrator in whose name it is posted.")],
) -> None:
    """Post one journal for a line that differs. Nothing that was posted is ever changed; twice posts once."""

    async def work(services: Services) -> None:
        raise typer.Exit(await settlement.repair(services, provider, file, line, kind, reason, admin))

    _with_services(work)


def _configured() -> Settings:
    settings = Settings()
    missing = [name.upper() for name in ("database_url", "redis_url") if not getattr(settings, name)]
    if missing:
        sys.exit(f"payflow: {' and '.join(missing)} must be set. Without servers of your own, use `payflow dev`.")
    return settings


def _with_services(work: Any) -> None:
    async def run() -> None:
        services = build_services(_configured())
        try:
            await work(services)
        finally:
            await services.close()

    configure_logging("WARNING")
    asyncio.run(run())


async def _until_stopped() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
