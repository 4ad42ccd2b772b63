"""`python -m worker`: one worker process."""

import asyncio

from payflow.bootstrap import build_services
from payflow.core.logging import configure_logging
from payflow.core.settings import Settings
from worker.app import Worker


async def main() -> None:
    settings = Settings()
    configure_logging(settings.log_level)
    await Worker(build_services(settings)).run()


if __name__ == "__main__":
    asyncio.run(main())
