"""Swagger UI at `/docs` and ReDoc at `/redoc` without any foreign host: the files come with `fastapi_offline`.

FastAPI's own pages carry an inline script; these load a file instead, so that the pages need no exception for scripts.
"""

from asyncio import to_thread
from html import escape
from pathlib import Path

import fastapi_offline
import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

_STATIC = Path(fastapi_offline.__file__).parent / "static"
_ASSETS = "/docs/assets"
# ReDoc's own signature is a picture from its makers' host; an empty one stands in for it.
_REDOC_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
_NO_LOGO = b"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>"

# Both tools write their styles into the page and draw images from data; ReDoc searches in a worker made from a blob.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY}
_KEEP_AN_HOUR = {"Cache-Control": "public, max-age=3600"}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{assets}/favicon.png">
{head}
</head>
<body>
<main aria-label="{title}">{body}</main>
<noscript>This page needs JavaScript; the same description is at <a href="{document}">{document}</a>.</noscript>
{scripts}
</body>
</html>
"""
_SWAGGER_START = """window.addEventListener("load", () => {{
  window.ui = SwaggerUIBundle({{
    url: {document}, dom_id: "#swagger-ui", deepLinking: true, persistAuthorization: false, tryItOutEnabled: true,
    presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  }});
}});
"""


def install_docs(app: FastAPI, *, aliases: tuple[str, ...] = ("/api/v1/docs",)) -> None:
    """The application is made with `docs_url=None, redoc_url=None` and keeps FastAPI's own `/openapi.json`."""

    def links(request: Request) -> tuple[str, str]:
        root = request.scope.get("root_path", "").rstrip("/")
        return root + _ASSETS, f"{root}{app.openapi_url}"

    async def swagger(request: Request) -> HTMLResponse:
        assets, document = links(request)
        return _page(
            f"{app.title}: API documentation",
            assets,
            document,
            head=f'<link rel="stylesheet" href="{escape(assets)}/swagger-ui.css">',
            body='<div id="swagger-ui"></div>',
            scripts=f'<script src="{escape(assets)}/swagger-ui-bundle.js"></script>\n'
            f'<script src="{escape(assets)}/start.js"></script>',
        )

    async def redoc(request: Request) -> HTMLResponse:
        assets, document = links(request)
        return _page(
            f"{app.title}: API reference",
            assets,
            document,
            head="<style>body { margin: 0; padding: 0; }</style>",
            body=f'<redoc spec-url="{escape(document)}"></redoc>',
            scripts=f'<script src="{escape(assets)}/redoc.standalone.js"></script>',
        )

    async def start_script(request: Request) -> Response:
        _, document = links(request)
        script = _SWAGGER_START.format(document=orjson.dumps(document).decode())
        return Response(script, media_type="text/javascript")

    async def redoc_script(request: Request) -> Response:
        script = await to_thread((_STATIC / "redoc.standalone.js").read_bytes)
        return Response(script.replace(_REDOC_LOGO, _NO_LOGO), media_type="text/javascript", headers=_KEEP_AN_HOUR)

    for path in ("/docs", *aliases):
        app.add_route(path, swagger, include_in_schema=False)
    app.add_route("/redoc", redoc, include_in_schema=False)
    app.add_route(f"{_ASSETS}/start.js", start_script, include_in_schema=False)
    app.add_route(f"{_ASSETS}/redoc.standalone.js", redoc_script, include_in_schema=False)
    app.mount(_ASSETS, StaticFiles(directory=_STATIC), name="docs-assets")


def _page(title: str, assets: str, document: str, *, head: str, body: str, scripts: str) -> HTMLResponse:
    text = _PAGE.format(
        title=escape(title), assets=escape(assets), document=escape(document), head=head, body=body, scripts=scripts
    )
    return HTMLResponse(text, headers=_HEADERS)
