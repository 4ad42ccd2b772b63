"""`python -m worker`: one worker process."""

from payflow.bootstrap import build_services
from payflow.core.logging import configure_logging
from payflow.core.runtime import run, spare_the_collector
from payflow.core.settings import Settings
from worker.app import Worker


async def main() -> None:
    settings = Settings()
    configure_logging(settings.log_level)
    worker = Worker(build_services(settings))
    spare_the_collector()
    await worker.run()


if __name__ == "__main__":
    run(main())
