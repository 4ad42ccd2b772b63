"""A worker that kills itself: `python -m tests.faults.dying_worker committed|published`, or with `mute` one that lives but
whose events never reach Redis."""

import asyncio
import sys

from payflow.bootstrap import PublisherFactory, build_services
from payflow.core.logging import configure_logging
from payflow.core.settings import Settings
from tests.faults.dying import DiesAfterPublishing, DiesBeforePublishing, NeverPublishes
from worker.app import Worker

PUBLISHERS: dict[str, PublisherFactory] = {
    "committed": DiesBeforePublishing,
    "published": DiesAfterPublishing,
    "mute": NeverPublishes,
}


async def main(point: str) -> None:
    settings = Settings()
    configure_logging(settings.log_level)
    await Worker(build_services(settings, publisher=PUBLISHERS[point])).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
