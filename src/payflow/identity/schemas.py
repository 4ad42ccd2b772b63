"""Bodies of the identity endpoints. Whatever is secret is a SecretStr, so that no log or error can show it."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, EmailStr, Field

from payflow.identity.principals import Role, Scope
from payflow.web.schemas import PLAIN_TEXT, Moment, PlainSecret, RequestModel, TrimmedText

_EXAMPLE_USER: dict[str, Any] = {
    "id": "0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50",
    "email": "amina@example.com",
    "name": "Amina Yusuf",
    "role": "user",
    "created_at": "2026-11-21T09:00:00Z",
}
_EXAMPLE_KEY: dict[str, Any] = {
    "id": "0199b2f5-1d2c-7a4b-8e00-1a2b3c4d5e6f",
    "name": "point of sale",
    "prefix": "k3v9x2m7p0qd",
    "scopes": ["payments:read", "payments:write"],
    "created_at": "2026-11-21T09:05:00Z",
    "expires_at": None,
    "last_used_at": None,
    "revoked_at": None,
}


def _examples(*values: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(values)})


Email = Annotated[EmailStr, Field(max_length=254, examples=["amina@example.com"])]
NewPassword = Annotated[PlainSecret, Field(min_length=10, max_length=128)]
GivenPassword = Annotated[PlainSecret, Field(min_length=1, max_length=128)]
GivenToken = Annotated[PlainSecret, Field(min_length=1, max_length=256)]
Name = Annotated[TrimmedText, Field(min_length=1, max_length=100)]


class RegisterRequest(RequestModel):
    model_config = _examples(
        {"email": "amina@example.com", "password": "correct horse battery staple", "name": "Amina Yusuf"}
    )

    email: Email
    password: NewPassword
    name: Name


class LoginRequest(RequestModel):
    model_config = _examples({"email": "amina@example.com", "password": "correct horse battery staple"})

    email: Email
    password: GivenPassword


class TokenForm(BaseModel):
    """The OAuth2 password form (RFC 6749, section 4.3.2). Other fields of it are read and ignored."""

    model_config = ConfigDict(
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [
                {
                    "grant_type": "password",
                    "username": "amina@example.com",
                    "password": "correct horse battery staple",
                }
            ]
        },
    )

    grant_type: Literal["password"] = "password"
    username: Annotated[str, Field(min_length=1, max_length=254, pattern=PLAIN_TEXT, description="The email.")]
    password: GivenPassword


class RefreshRequest(RequestModel):
    model_config = _examples({"refresh_token": "b7e2…"})

    refresh_token: GivenToken


class LogoutRequest(RequestModel):
    model_config = _examples({"refresh_token": "b7e2…"})

    refresh_token: GivenToken | None = None


class Tokens(BaseModel):
    model_config = _examples(
        {"access_token": "eyJhbGciOiJIUzI1NiIs…", "refresh_token": "b7e2…", "token_type": "bearer", "expires_in": 900}
    )

    access_token: str
    refresh_token: str = Field(description="Good for one use; the answer to that use brings the next.")
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - a kind of token
    expires_in: int = Field(description="Seconds that the access token lives.")


class UserOut(BaseModel):
    model_config = _examples(_EXAMPLE_USER)

    id: UUID
    email: str
    name: str
    role: Role
    created_at: AwareDatetime


class MeOut(UserOut):
    model_config = _examples(
        {
            **_EXAMPLE_USER,
            "authenticated_by": "access_token",
            "scopes": ["payments:read", "payments:write"],
            "expires_at": "2026-11-21T09:15:00Z",
        }
    )

    authenticated_by: Literal["access_token", "api_key"]
    scopes: list[str]
    expires_at: AwareDatetime | None = Field(description="When the credential of this request ends.")


class ApiKeyRequest(RequestModel):
    model_config = _examples({"name": "point of sale", "scopes": ["payments:read", "payments:write"]})

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=20)] | None = Field(
        default=None, description="Without it: every scope that is not an administrator's."
    )
    expires_at: Moment | None = Field(
        default=None,
        description="In the future, at most ten years ahead. Without it the key lives until it is revoked.",
    )


class ApiKeyOut(BaseModel):
    model_config = _examples(_EXAMPLE_KEY)

    id: UUID
    name: str
    prefix: str = Field(description="The part after `pf_key_`, to tell keys apart.")
    scopes: list[str]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    last_used_at: AwareDatetime | None = Field(description="To the minute.")
    revoked_at: AwareDatetime | None


class ApiKeyCreated(ApiKeyOut):
    model_config = _examples({**_EXAMPLE_KEY, "key": "pf_key_k3v9x2m7p0qd_…"})

    key: str = Field(description="Shown this once.")


class ApiKeyList(BaseModel):
    model_config = _examples({"items": [_EXAMPLE_KEY]})

    items: list[ApiKeyOut]
