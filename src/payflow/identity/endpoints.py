"""/auth: registering, logging in, tokens and API keys."""

from dataclasses import asdict
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Form, Request

from payflow.core.errors import Conflict, Forbidden, NotAuthenticated
from payflow.identity.dependencies import current_principal, session_principal
from payflow.identity.principals import Principal
from payflow.identity.schemas import (
    ApiKeyCreated,
    ApiKeyList,
    ApiKeyOut,
    ApiKeyRequest,
    LoginRequest,
    LogoutRequest,
    MeOut,
    RefreshRequest,
    RegisterRequest,
    TokenForm,
    Tokens,
    UserOut,
)
from payflow.identity.service import IdentityService, Origin, TokenPair
from payflow.web.problems import problem_responses
from payflow.web.rate_limits import RateLimiter, limited_in_process, per_process_limiter, rate_limit

_WRONG = NotAuthenticated("The email or the password is wrong.", code="invalid_credentials")
_DISABLED = Forbidden("This account is disabled.", code="user_disabled")
_LOGIN_PROBLEMS = problem_responses(400, 413, 422, 429, 503, errors=[_WRONG, _DISABLED])
_LOGIN_REQUIRED = Forbidden("This needs a login; an API key may not do it.", code="login_required")


def identity_router(identity: IdentityService, limiter: RateLimiter) -> APIRouter:
    router = APIRouter(prefix="/auth", tags=["auth"])
    # Registering and logging in are limited twice: in Redis, and by slowapi in this process, which needs no Redis.
    in_process = per_process_limiter()
    logins_per_minute = limiter.per_minute("login")
    by_address = [Depends(rate_limit(limiter, "login"))]
    reader = session_principal(identity, limiter=limiter, group="read")
    writer = session_principal(identity, limiter=limiter, group="write")
    anyone = current_principal(identity, limiter=limiter, group="read")

    @router.post(
        "/register",
        status_code=201,
        summary="Register a user",
        dependencies=by_address,
        responses=problem_responses(
            400,
            413,
            422,
            429,
            503,
            errors=[
                Forbidden("Registration is closed.", code="registration_closed"),
                Conflict("An account with this address exists.", code="email_taken"),
            ],
        ),
    )
    @limited_in_process(in_process, logins_per_minute)
    async def register(request: Request, body: RegisterRequest) -> UserOut:
        """Makes a user, who is the merchant owning what is created with its tokens and keys."""
        user = await identity.register(body.email, body.password.get_secret_value(), body.name, _origin(request))
        return UserOut.model_validate(user, from_attributes=True)

    @router.post("/login", summary="Log in", dependencies=by_address, responses=_LOGIN_PROBLEMS)
    @limited_in_process(in_process, logins_per_minute)
    async def login(request: Request, body: LoginRequest) -> Tokens:
        """Gives an access token for `Authorization: Bearer` and a refresh token for `/auth/refresh`."""
        return _tokens(await identity.login(body.email, body.password.get_secret_value(), _origin(request)))

    @router.post(
        "/token", summary="Log in with an OAuth2 password form", dependencies=by_address, responses=_LOGIN_PROBLEMS
    )
    @limited_in_process(in_process, logins_per_minute)
    async def token(request: Request, form: Annotated[TokenForm, Form()]) -> Tokens:
        """The same as `/auth/login` in the form that OAuth2 clients and the docs' Authorize button send."""
        return _tokens(await identity.login(form.username, form.password.get_secret_value(), _origin(request)))

    @router.post(
        "/refresh",
        summary="Exchange a refresh token",
        dependencies=[Depends(rate_limit(limiter, "write"))],
        responses=problem_responses(
            400,
            413,
            422,
            429,
            503,
            errors=[
                NotAuthenticated("The refresh token is not valid.", code="invalid_token"),
                NotAuthenticated("The refresh token was used before; log in again.", code="token_reused"),
            ],
        ),
    )
    async def refresh(request: Request, body: RefreshRequest) -> Tokens:
        """A new access and refresh token. Each refresh token works once: a second use means that it was copied, and
        ends the login with all its tokens."""
        return _tokens(await identity.refresh(body.refresh_token.get_secret_value(), _origin(request)))

    @router.post(
        "/logout",
        status_code=204,
        summary="Log out",
        dependencies=[Depends(rate_limit(limiter, "write"))],
        responses=problem_responses(400, 401, 413, 422, 429, 503, errors=[_LOGIN_REQUIRED]),
        openapi_extra={"security": [{}, {"AccessToken": []}]},
    )
    async def logout(
        request: Request, body: Annotated[LogoutRequest | None, Body(examples=[{"refresh_token": "b7e2…"}])] = None
    ) -> None:
        """Ends the login of the refresh token in the body, or else of the access token in the header. Its access tokens
        are refused within five seconds."""
        if body is not None and body.refresh_token is not None:
            await identity.logout(refresh_token=body.refresh_token.get_secret_value())
        else:
            await identity.logout(principal=await writer_of(request))

    async def writer_of(request: Request) -> Principal:
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise NotAuthenticated
        principal = await identity.authenticate_token(credential.strip())
        if principal.kind != "user":
            raise _login_required()
        return principal

    @router.get("/me", summary="Who am I?", responses=problem_responses(401, 429, 503))
    async def me(principal: Annotated[Principal, Depends(anyone)]) -> MeOut:
        """The user behind the token or API key, and what the credential may do."""
        user = await identity.me(principal)
        return MeOut.model_validate(
            {
                **asdict(user),
                "authenticated_by": "access_token" if principal.kind == "user" else "api_key",
                "scopes": sorted(principal.scopes),
                "expires_at": principal.expires_at,
            }
        )

    @router.post(
        "/api-keys",
        status_code=201,
        summary="Create an API key",
        responses=problem_responses(
            400,
            401,
            413,
            422,
            429,
            503,
            errors=[
                _LOGIN_REQUIRED,
                Forbidden("Your role does not include config:admin.", code="insufficient_scope"),
                Conflict("At most 50 API keys; revoke one first.", code="too_many_api_keys"),
            ],
        ),
    )
    async def create_api_key(
        request: Request, principal: Annotated[Principal, Depends(writer)], body: ApiKeyRequest
    ) -> ApiKeyCreated:
        """The key is shown in this answer and never again. Send it as `X-API-Key`."""
        row, key = await identity.create_api_key(principal, body.name, body.scopes, body.expires_at, _origin(request))
        return ApiKeyCreated.model_validate({**asdict(row), "key": key})

    @router.get("/api-keys", summary="List API keys", responses=problem_responses(401, 403, 429, 503))
    async def list_api_keys(principal: Annotated[Principal, Depends(reader)]) -> ApiKeyList:
        """The newest 200, revoked and expired ones too."""
        rows = await identity.list_api_keys(principal)
        return ApiKeyList(items=[ApiKeyOut.model_validate(row, from_attributes=True) for row in rows])

    @router.delete(
        "/api-keys/{api_key_id}",
        status_code=204,
        summary="Revoke an API key",
        responses=problem_responses(401, 404, 422, 429, 503, errors=[_LOGIN_REQUIRED]),
    )
    async def revoke_api_key(
        request: Request, principal: Annotated[Principal, Depends(writer)], api_key_id: UUID
    ) -> None:
        """It is refused everywhere within five seconds. 404 also for one that was revoked before."""
        await identity.revoke_api_key(principal, api_key_id, _origin(request))

    return router


def _login_required() -> Forbidden:
    return Forbidden(_LOGIN_REQUIRED.detail, code=_LOGIN_REQUIRED.code)


def _origin(request: Request) -> Origin:
    state = request.scope.get("state") or {}
    address = state.get("client_address") or (request.client.host if request.client else None)
    return Origin(address, request.headers.get("user-agent", "")[:300] or None)


def _tokens(pair: TokenPair) -> Tokens:
    return Tokens(access_token=pair.access_token, refresh_token=pair.refresh_token, expires_in=pair.expires_in)
