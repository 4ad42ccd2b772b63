from collections.abc import AsyncIterator

import pytest

from tests.house import Urls
from tests.openapi.stage import Stage, running_stage


@pytest.fixture(scope="package")
async def stage(urls: Urls) -> AsyncIterator[Stage]:
    async with running_stage(urls) as running:
        yield running
