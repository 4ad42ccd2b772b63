"""The docs pages of the whole application, which work without any other host."""

import re
from collections.abc import AsyncIterator
from urllib.parse import urljoin

import httpx
import pytest

from tests.openapi.document import application, document


@pytest.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=application())
    async with httpx.AsyncClient(transport=transport, base_url="http://payflow.example") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("/docs", "PayFlow: API documentation"),
        ("/api/v1/docs", "PayFlow: API documentation"),
        ("/redoc", "PayFlow: API reference"),
    ],
)
async def test_a_page_and_all_it_loads_come_from_here(browser: httpx.AsyncClient, path: str, title: str) -> None:
    page = await browser.get(path)

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert f"<title>{title}</title>" in page.text
    assert "//" not in re.sub(r"<!DOCTYPE[^>]*>", "", page.text)
    loaded = re.findall(r'(?:src|href|spec-url)="([^"]+)"', page.text)
    assert len(loaded) >= 3
    for address in loaded:
        assert address.startswith("/")
        assert (await browser.get(address)).status_code == 200, address


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_policy_of_a_page_lets_nothing_else_in(browser: httpx.AsyncClient, path: str) -> None:
    policy = (await browser.get(path)).headers["content-security-policy"]

    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "http" not in policy


async def test_what_a_page_loads_asks_no_other_host_for_pictures_styles_or_scripts(browser: httpx.AsyncClient) -> None:
    """Their texts name hosts, in links and in the names of standards; what matters is what they would fetch."""
    for path in ("/docs", "/redoc"):
        page = await browser.get(path)
        for address in re.findall(r'(?:src|href)="([^"]+[.](?:js|css))"', page.text):
            text = (await browser.get(urljoin(path, address))).text
            assert not re.search(r"""url\(["']?(?:https?:)?//""", text), address
            assert not re.search(r"""src[:=] ?["'](?:https?:)?//""", text), address
            assert "//cdn." not in text, address


async def test_the_document_is_served_as_it_is_written(browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/openapi.json")

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == document()
