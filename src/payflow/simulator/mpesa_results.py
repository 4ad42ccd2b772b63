"""Daraja's shapes for what an initiator orders: acknowledgement, and the results that come to ResultURL later."""

import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson
from starlette.responses import Response

from payflow.simulator.mpesa_objects import decoded
from payflow.simulator.state import Charge, NotPossible, reply

PROCESSED = "The service request is processed successfully."
Ending = tuple[int | str, str]

PAYOUT_ENDS: dict[str, Ending] = {
    "pay": (0, PROCESSED),
    "decline": (2040, "Credit Party customer type can't be supported by the service."),
    "insufficient_funds": (1, "The balance is insufficient for the transaction."),
}
REFUND_ENDS: dict[str, Ending] = {
    "pay": (0, PROCESSED),
    "decline": (11, "The DebitParty is in an invalid state."),
    "insufficient_funds": (1, "The balance is insufficient for the transaction."),
}
WRONG_CREDENTIAL: Ending = (2001, "The initiator information is invalid.")
ALREADY_REVERSED: Ending = ("R000001", "The transaction has already been reversed.")
NO_ORIGINAL: Ending = ("R000002", "The OriginalTransactionID is invalid.")
STATUS_WORDS = {"pending": "Authorized", "paid": "Completed", "failed": "Declined"}
REASONS = {"payout": "Business Payment to Customer via API", "refund": "Transaction Reversal via API"}


@dataclass
class Order:
    """`original` is the receipt that a reversal is of; `credential_fits` shows only in the result, as at Daraja."""

    charge: Charge
    kind: str  # payout | refund
    originator_id: str
    shillings: int
    result_url: str
    timeout_url: str
    phone: str = ""
    original: str = ""
    credential_fits: bool = True
    ended: Ending | None = None
    receipt: str = ""

    @property
    def conversation_id(self) -> str:
        return self.charge.id


def originator_id() -> str:
    part = secrets.token_hex
    return f"{part(2)}-{part(2)}-{part(2)}-{part(2)}-{part(8)}"


def conversation_id(now: datetime) -> str:
    return f"AG_{now:%Y%m%d}_{secrets.token_hex(10)}"


def acknowledged(originator: str, conversation: str) -> Response:
    return reply(
        {
            "ConversationID": conversation,
            "OriginatorConversationID": originator,
            "ResponseCode": "0",
            "ResponseDescription": "Accept the service request successfully.",
        }
    )


def ending(order: Order, action: str) -> Ending:
    ends = PAYOUT_ENDS if order.kind == "payout" else REFUND_ENDS
    if action in ends:
        return ends[action]
    code = action.removeprefix("code_")
    if code == action:
        raise NotPossible(f"an M-Pesa {order.kind} knows no {action!r}")
    return int(code) if code.isdecimal() else code, f"Result {code}"


def result(order: Order, now: datetime, payer: str = "") -> dict[str, Any]:
    assert order.ended is not None
    code, words = order.ended
    queue = "b2cresults" if order.kind == "payout" else "reversalresults"
    told: dict[str, Any] = {
        "ResultType": 0,
        "ResultCode": code,
        "ResultDesc": words,
        "OriginatorConversationID": order.originator_id,
        "ConversationID": order.conversation_id,
        "TransactionID": order.receipt or f"{now:%y}E0000000"[:10],
    }
    if code == 0:
        parameters = payout_parameters(order, now) if order.kind == "payout" else refund_parameters(order, now, payer)
        told["ResultParameters"] = {"ResultParameter": parameters}
    address = f"https://internalsandbox.safaricom.co.ke/mpesa/{queue}/v1/submit"
    return {"Result": told | {"ReferenceData": {"ReferenceItem": {"Key": "QueueTimeoutURL", "Value": address}}}}


def payout_parameters(order: Order, now: datetime) -> list[dict[str, Any]]:
    return [
        {"Key": "TransactionAmount", "Value": order.shillings},
        {"Key": "TransactionReceipt", "Value": order.receipt},
        {"Key": "ReceiverPartyPublicName", "Value": f"{order.phone} - SIMULATED CUSTOMER"},
        {"Key": "TransactionCompletedDateTime", "Value": f"{now:%d.%m.%Y %H:%M:%S}"},
        {"Key": "B2CUtilityAccountAvailableFunds", "Value": orjson.Fragment("8959269.60")},
        {"Key": "B2CWorkingAccountAvailableFunds", "Value": orjson.Fragment("1199371.00")},
        {"Key": "B2CRecipientIsRegisteredCustomer", "Value": "Y"},
        {"Key": "B2CChargesPaidAccountAvailableFunds", "Value": orjson.Fragment("-1980.00")},
    ]


def refund_parameters(order: Order, now: datetime, payer: str) -> list[dict[str, Any]]:
    return [
        {"Key": "DebitAccountBalance", "Value": "Utility Account|KES|7722179.62|7722179.62|0.00|0.00"},
        {"Key": "Amount", "Value": orjson.Fragment(f"{order.shillings}.00")},
        {"Key": "TransCompletedTime", "Value": int(f"{now:%Y%m%d%H%M%S}")},
        {"Key": "OriginalTransactionID", "Value": order.original},
        {"Key": "Charge", "Value": orjson.Fragment("0.00")},
        {"Key": "CreditPartyPublicName", "Value": f"{payer} - SIMULATED CUSTOMER"},
        {"Key": "DebitPartyPublicName", "Value": "600992 - Simulated Business"},
    ]


def status_result(order: Order | None, ids: tuple[str, str], now: datetime) -> dict[str, Any]:
    """ResultCode 0 says that the question succeeded. `Amount` is text here, and one parameter has no value."""
    told: dict[str, Any] = {
        "ResultType": 0,
        "ResultCode": 0 if order else 25,
        "ResultDesc": PROCESSED if order else "Invalid parameters.",
        "OriginatorConversationID": ids[0],
        "ConversationID": ids[1],
        "TransactionID": f"{now:%y}T0000000"[:10],
    }
    if order is not None:
        values = {
            "DebitPartyName": "600992 - Simulated Business",
            "CreditPartyName": f"{order.phone} - SIMULATED CUSTOMER",
            "OriginatorConversationID": order.originator_id,
            "InitiatedTime": int(f"{now:%Y%m%d%H%M%S}"),
            "DebitAccountType": "Utility Account",
            "DebitPartyCharges": "Fee For B2C Payment|KES|22.40",
            "ReasonType": REASONS[order.kind],
            "TransactionStatus": STATUS_WORDS[order.charge.status],
            "FinalisedTime": int(f"{now:%Y%m%d%H%M%S}"),
            "Amount": str(order.shillings),
            "ConversationID": order.conversation_id,
            "ReceiptNo": order.receipt,
        }
        listed = [{"Key": "TransactionReason"}, *({"Key": key, "Value": value} for key, value in values.items())]
        told["ResultParameters"] = {"ResultParameter": listed}
    return {"Result": told | {"ReferenceData": {"ReferenceItem": {"Key": "Occasion"}}}}


def timeout_notice(order: Order) -> dict[str, Any]:
    """Its body is documented nowhere."""
    return {"OriginatorConversationID": order.originator_id, "ConversationID": order.conversation_id}


def timeout_as_result(order: Order, now: datetime) -> dict[str, Any]:
    """The same in the shape of a result, which nothing rules out; the order itself has not ended."""
    return result(replace(order, ended=(1, "The request timed out in the queue.")), now)


def is_security_credential(value: Any) -> bool:
    """As long as an RSA key of 1024, 2048 or 4096 bits makes it."""
    return len(decoded(str(value or ""))) in (128, 256, 512)
