"""The errors PayFlow raises, as a tree. `web.problems` turns each into RFC 9457 problem+json.

    PayFlowError                500 internal_error
    ├── Malformed               400 malformed_request
    ├── NotAuthenticated        401 not_authenticated
    ├── Declined                402 declined
    ├── Forbidden               403 forbidden
    ├── NotFound                404 not_found
    ├── Conflict                409 conflict
    │   └── InFlight            409 in_flight (Retry-After)
    ├── TooLarge                413 body_too_large
    ├── Invalid                 422 invalid_request
    ├── RateLimited             429 rate_limited (Retry-After)
    ├── ProviderUnavailable     502 provider_unavailable
    └── Unavailable             503 unavailable (Retry-After)

A class's docstring is its default message. `detail` is shown to the caller, so it never holds a secret, SQL or a trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class FieldError:
    """One entry of a problem's `errors[]`: an RFC 6901 pointer into the request and what is wrong there."""

    pointer: str
    detail: str


class PayFlowError(Exception):
    """Something went wrong on our side."""

    status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    code: str = "internal_error"

    def __init__(
        self,
        detail: str | None = None,
        *,
        code: str | None = None,
        errors: Sequence[FieldError] = (),
        retry_after: int | None = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.code = code or type(self).code
        self.errors = tuple(errors)
        self.retry_after = retry_after
        self.extra = extra or {}
        super().__init__(self.detail)


class Malformed(PayFlowError):
    """The request could not be read."""

    status = HTTPStatus.BAD_REQUEST
    code = "malformed_request"


class NotAuthenticated(PayFlowError):
    """A valid access token or API key is required."""

    status = HTTPStatus.UNAUTHORIZED
    code = "not_authenticated"


class Declined(PayFlowError):
    """The provider declined."""

    status = HTTPStatus.PAYMENT_REQUIRED
    code = "declined"


class Forbidden(PayFlowError):
    """You may not do this."""

    status = HTTPStatus.FORBIDDEN
    code = "forbidden"


class NotFound(PayFlowError):
    """There is no such thing, or it is not yours."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"


class Conflict(PayFlowError):
    """The present state does not allow this."""

    status = HTTPStatus.CONFLICT
    code = "conflict"


class InFlight(Conflict):
    """A request with this Idempotency-Key is still running."""

    code = "in_flight"


class TooLarge(PayFlowError):
    """The request body is too large."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "body_too_large"


class Invalid(PayFlowError):
    """The request is not valid."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "invalid_request"


class RateLimited(PayFlowError):
    """Too many requests."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate_limited"


class ProviderUnavailable(PayFlowError):
    """The provider could not be reached and nothing was sent."""

    status = HTTPStatus.BAD_GATEWAY
    code = "provider_unavailable"


class Unavailable(PayFlowError):
    """A part this request needs is away for the moment."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"
