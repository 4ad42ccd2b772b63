"""An API node that kills itself: `python -m tests.faults.dying_api provider-answered|committed|held|transferred`."""

import sys
from typing import Any

import uvicorn

from payflow.bootstrap import build_services
from payflow.cli.serving import server_config
from payflow.core.logging import configure_logging
from payflow.core.settings import Settings
from payflow.main import create_app
from tests.faults.dying import MONEY_OUT, DiesBeforePublishing, DiesBeforeSending, DiesOnceAnswered


def main(point: str) -> None:
    settings = Settings()
    configure_logging(settings.log_level)
    collaborators: dict[str, dict[str, Any]] = {
        "provider-answered": {"transport": DiesOnceAnswered()},
        "committed": {"publisher": DiesBeforePublishing},
        "held": {"transport": DiesBeforeSending(*MONEY_OUT)},
        "transferred": {"transport": DiesOnceAnswered(*MONEY_OUT)},
    }
    app = create_app(build_services(settings, **collaborators[point]))
    uvicorn.Server(server_config(app, settings.host, settings.port)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
