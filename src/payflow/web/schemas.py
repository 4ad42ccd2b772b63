"""What request models of every room share."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
)

# No control characters (PostgreSQL stores no NUL in text). Lone surrogates are refused by pydantic's `str` already.
PLAIN_TEXT = r"^[^\x00-\x1f\x7f]*$"
# The same, and neither empty nor beginning or ending with a blank.
TRIMMED_TEXT = r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$"

PlainText = Annotated[str, StringConstraints(pattern=PLAIN_TEXT)]
TrimmedText = Annotated[str, StringConstraints(pattern=TRIMMED_TEXT)]


def _plain(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    # Unlike `str`, SecretStr lets lone surrogates pass, and they have no bytes that could be hashed or sent.
    if any(character < " " or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("Must hold no control characters")
    return secret


# A password, OTP or token: never shown by repr, logs or errors, and plain text.
PlainSecret = Annotated[SecretStr, AfterValidator(_plain), Field(json_schema_extra={"pattern": PLAIN_TEXT})]

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _as_documented(value: Any) -> Any:
    """Pydantic would also read numbers, as seconds or milliseconds since 1970."""
    if isinstance(value, datetime) or (isinstance(value, str) and _RFC_3339.fullmatch(value)):
        return value
    raise ValueError("Give a time of RFC 3339, such as 2026-11-21T10:00:00Z.")


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:  # 0001-01-01T00:00:00+14:00 lies before the calendar begins
        raise ValueError("This time is out of range.") from None


# A time in a request: RFC 3339 with its offset, handed on in UTC.
Moment = Annotated[AwareDatetime, BeforeValidator(_as_documented), AfterValidator(_in_utc)]


class RequestModel(BaseModel):
    """A request body: members that nobody knows are refused, and what was sent is never repeated in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
