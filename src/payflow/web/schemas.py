"""What request models of every room share."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints

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


class RequestModel(BaseModel):
    """A request body: members that nobody knows are refused, and what was sent is never repeated in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
