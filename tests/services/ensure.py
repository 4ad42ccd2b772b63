"""Run a command with real servers around it:  python -m tests.services.ensure -- pytest -q

The command sees their URLs in PAYFLOW_TEST_DATABASE_URL, PAYFLOW_TEST_REDIS_URL and PAYFLOW_TEST_AMQP_URL; servers
that had to be started end with it. `--env FILE` writes the URLs as `export` lines too. Without a command the lines are
printed, and what was started keeps running until Ctrl-C.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.services.finder import (
    SERVICES,
    Found,
    Service,
    ServiceFinder,
    ServiceMissing,
    install,
    services_are_required,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Ensure the servers, run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.services.ensure", description=__doc__.splitlines()[0])
    parser.add_argument("--env", type=Path, metavar="FILE", help="also write the URLs to FILE as export lines")
    parser.add_argument("--no-install", action="store_true", help="never install packages")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ARGUMENT ...")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command

    signal.signal(signal.SIGTERM, _end)
    with ServiceFinder() as finder:
        found, missing = _find_all(finder, may_install=not options.no_install)
        if missing and services_are_required():
            _say("REQUIRE_SERVICES is set: giving up")
            return 1
        lines = [f"export {one.service.variable}={shlex.quote(one.url)}" for one in found]
        if options.env:
            options.env.write_text("".join(f"{line}\n" for line in lines))
        if command:
            return _run(command, {**os.environ, **{one.service.variable: one.url for one in found}})
        print("\n".join(lines), flush=True)
        if any(one.how.startswith("started") for one in found):
            _say("running until interrupted")
            _wait_for_interrupt()
    return 0


def _find_all(finder: ServiceFinder, *, may_install: bool) -> tuple[list[Found], list[Service]]:
    found: list[Found] = []
    missing: dict[Service, ServiceMissing] = {}
    for service in SERVICES:
        _look_for(finder, service, found, missing)
    if missing and may_install and install(list(missing), _say):
        finder.forget_failures()
        wanted = list(missing)
        missing.clear()
        for service in wanted:
            _look_for(finder, service, found, missing)
    for service, reason in missing.items():
        _say(f"{service.name}: MISSING, its tests {'fail' if services_are_required() else 'are skipped'} ({reason})")
    return found, list(missing)


def _look_for(
    finder: ServiceFinder, service: Service, found: list[Found], missing: dict[Service, ServiceMissing]
) -> None:
    try:
        one = finder.find(service)
    except ServiceMissing as error:
        missing[service] = error
    else:
        found.append(one)
        _say(f"{service.name}: {one.how}")


def _run(command: list[str], environment: dict[str, str]) -> int:
    process = subprocess.Popen(command, env=environment)
    # Ctrl-C reaches the command too, which ends in its own time; the servers must not go before it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return code if code >= 0 else 128 - code


def _wait_for_interrupt() -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        _say("stopping")


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _say(line: str) -> None:
    print(f"services: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
