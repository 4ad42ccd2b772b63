"""What of a request's path may be written down: capability tokens in webhook paths are 64 hexadecimal characters."""

import re

from starlette.types import Scope

_TOKEN = re.compile(r"[0-9a-fA-F]{64}")


def masked_path(path: str) -> str:
    return _TOKEN.sub("[redacted]", path) if len(path) > 64 else path


def route_template(scope: Scope) -> str | None:
    """The template (`/api/v1/payments/{payment_id}`) of the route that took the request, None when none did.

    Read after the application has run: FastAPI leaves the chosen route in the scope, so nothing is matched twice.
    """
    chosen = scope.get("fastapi", {}).get("effective_route_context")
    # A plain Starlette route in an included router stands inside the context, whose own path is empty then.
    route = getattr(chosen, "starlette_route", None) or chosen or scope.get("route")
    template = getattr(route, "path_format", None) or getattr(route, "path", None)
    return template if isinstance(template, str) else None
