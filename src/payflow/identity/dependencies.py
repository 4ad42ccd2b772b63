"""The dependency by which every room's endpoints learn who is asking.

reader = current_principal(identity, scope="payments:read", limiter=limiter, group="read")

@router.get("/payments")
async def list_payments(principal: Annotated[Principal, Depends(reader)]) -> ...:
"""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.openapi.models import APIKey, APIKeyIn, HTTPBearer, OAuth2, OAuthFlowPassword, OAuthFlows
from fastapi.openapi.models import SecurityBase as SecurityModel
from fastapi.security.base import SecurityBase

from payflow.core.errors import Forbidden, NotAuthenticated
from payflow.identity.principals import Principal, Scope
from payflow.identity.service import IdentityService
from payflow.web.rate_limits import Group, RateLimiter, enforce

TOKEN_URL = "/api/v1/auth/token"  # noqa: S105 - an address

PrincipalDependency = Callable[..., Awaitable[Principal]]


class DocumentedScheme(SecurityBase):
    """Puts a security scheme into the OpenAPI document and does nothing else."""

    def __init__(self, name: str, model: SecurityModel) -> None:
        self.scheme_name = name
        self.model = model

    async def __call__(self) -> None: ...


def current_principal(
    identity: IdentityService,
    *,
    scope: Scope | None = None,
    admin: bool = False,
    limiter: RateLimiter | None = None,
    group: Group = "read",
) -> PrincipalDependency:
    """Reads `Authorization: Bearer` (access token or API key) or `X-API-Key` and sets `request.state.principal`.

    With a limiter the request is counted in `group`: for the principal, or for the address when it is refused.
    NotAuthenticated; Forbidden `insufficient_scope` or `admin_only`; RateLimited.
    """
    password_flow = DocumentedScheme(
        "Password",
        OAuth2(
            flows=OAuthFlows(password=OAuthFlowPassword(tokenUrl=TOKEN_URL, scopes={})),
            description="Email and password, as the Authorize button asks for them.",
        ),
    )
    bearer = DocumentedScheme(
        "AccessToken", HTTPBearer(bearerFormat="JWT", description="The access token of a login, or an API key.")
    )
    api_key = DocumentedScheme(
        "ApiKey",
        APIKey(**{"in": APIKeyIn.header}, name="X-API-Key", description="A key made with POST /auth/api-keys."),
    )

    async def principal(
        request: Request,
        _password_flow: Annotated[None, Depends(password_flow)],
        _bearer: Annotated[None, Depends(bearer)],
        _api_key: Annotated[None, Depends(api_key)],
    ) -> Principal:
        try:
            found = await _authenticate(identity, request)
        except NotAuthenticated:
            if limiter is not None:
                await enforce(limiter, group, request)
            raise
        request.state.principal = found
        if limiter is not None:
            await enforce(limiter, group, request, key=found.key())
        if admin and not found.is_admin:
            raise Forbidden("This is for administrators.", code="admin_only")
        if scope is not None and not found.may(scope):
            raise Forbidden(f"This needs the scope {scope}.", code="insufficient_scope")
        return found

    return principal


def session_principal(
    identity: IdentityService, *, limiter: RateLimiter | None = None, group: Group = "read"
) -> PrincipalDependency:
    """The same, for what a person does after a login and an API key may not: managing API keys."""
    authenticated = current_principal(identity, limiter=limiter, group=group)

    async def principal(found: Annotated[Principal, Depends(authenticated)]) -> Principal:
        if found.kind != "user":
            raise Forbidden("This needs a login; an API key may not do it.", code="login_required")
        return found

    return principal


async def _authenticate(identity: IdentityService, request: Request) -> Principal:
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise NotAuthenticated("Authorization must be a Bearer token.")
        return await identity.authenticate_token(credential.strip())
    return await identity.authenticate(api_key=request.headers.get("x-api-key"))
