"""Single requests that generated ones seldom hit."""

from urllib.parse import quote

import pytest

from tests.house import Merchant
from tests.openapi.stage import Stage


@pytest.fixture(scope="module")
async def ada(stage: Stage) -> Merchant:
    return await stage.house.merchant()


@pytest.mark.parametrize("path", ["/payments", "/transactions"])
@pytest.mark.parametrize("name", ["created_from", "created_to"])
@pytest.mark.parametrize(
    "moment",
    [
        "0001-01-01T00:00:00+14:00",  # before the calendar begins
        "9999-12-31T23:59:59-14:00",  # after it ends
        "2026-11-21T10:00:00",  # of no zone
        "2026-11-21",
        "1795255200",  # seconds since 1970
        "-1710",
        "2026-02-30T00:00:00Z",
        "2026-11-21T10:00:00 01:00",  # a plus sign that was not escaped
        "٢٠٢٦-11-21T10:00:00Z",
    ],
)
async def test_a_time_that_is_none_is_refused(ada: Merchant, path: str, name: str, moment: str) -> None:
    answer = await ada.get(f"{path}?{name}={quote(moment)}")

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["pointer"] == f"/query/{name}"


@pytest.mark.parametrize(
    "moment",
    ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2026-11-21T10:00:00+14:00", "2026-11-21t10:00:00z"],
)
async def test_any_time_of_the_calendar_is_taken(ada: Merchant, moment: str) -> None:
    answer = await ada.get("/payments", params={"created_from": moment, "created_to": moment})

    assert (answer.status_code, answer.json()["data"]) == (200, [])


@pytest.mark.parametrize("moment", [1_795_255_200, "1795255200", "9999-12-31T23:59:59-14:00", True])
async def test_a_key_expires_at_a_time_and_not_at_a_number(ada: Merchant, moment: object) -> None:
    answer = await ada.post("/auth/api-keys", json={"name": "till", "expires_at": moment})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/body/expires_at")
    assert (await ada.get("/auth/api-keys")).json() == {"items": []}
