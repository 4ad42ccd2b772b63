"""The codes a socket is closed with, and the request and answer for a ticket."""

from enum import IntEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from payflow.identity.principals import Principal
from payflow.web.schemas import RequestModel

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


class CloseCode(IntEnum):
    """Why a socket was closed; the reason beside it is a stable word, as `code` is in a problem.

    A client goes on like this: renew the credential and connect again (4401, 4408); do not connect again as you are
    (4400, 4403, 4404, 1009); connect again at once with `?after=` (1012, 4008); connect again later (4429, 1011, 1013).
    """

    TOO_BIG = 1009
    FAILED = 1011
    SHUTDOWN = 1012
    TRY_LATER = 1013
    SLOW_CLIENT = 4008
    MALFORMED = 4400
    NOT_AUTHENTICATED = 4401
    FORBIDDEN = 4403
    NOT_FOUND = 4404
    AUTH_TIMEOUT = 4408
    TOO_MANY = 4429


class TicketRequest(RequestModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"channel": "transaction:0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50"}]}
    )

    channel: Annotated[
        str,
        StringConstraints(pattern=f"^(transaction|user):{_UUID}$"),
        Field(examples=["transaction:0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50"]),
    ]


class TicketAnswer(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"ticket": "pf_ticket_Xc2…", "expires_in": 60}]})

    ticket: str = Field(description="Good for one socket, of the channel it was made for.")
    expires_in: int = Field(description="Seconds.", examples=[60])


class TicketContent(BaseModel):
    """What Redis keeps of a ticket: the credential's meaning, so that the socket ends when the credential does."""

    channel: str
    principal: Principal
