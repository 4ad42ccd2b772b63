from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from payflow.core.ids import uuid7
from payflow.transactions.client_tokens import ClientTokens

TOKENS, NOW = ClientTokens(b"k" * 32, 60), datetime(2026, 11, 21, tzinfo=UTC)
# One for all: the names of the cases below must be the same in every process of a run.
SOME = UUID("0199b2f4-8c1e-7d3a-9f00-5b1c2d3e4f50")


def test_a_token_names_its_transaction() -> None:
    identity = uuid7()
    token = TOKENS.mint(identity)
    assert token.startswith("pf_client_")
    assert TOKENS.read(token) == identity
    assert TOKENS.mint(identity) == token


@pytest.mark.parametrize(
    "token",
    [
        "",
        "pf_client_",
        "pf_client_ünï",
        "pf_client_!!!!",
        "pf_client_AAAA",
        "pf_client_a",
        TOKENS.mint(SOME)[:-4] + "AAAA",
        TOKENS.mint(SOME).removeprefix("pf_client_"),
        ClientTokens(b"o" * 32).mint(SOME),
    ],
)
def test_a_token_that_we_did_not_mint_names_nothing(token: str) -> None:
    assert TOKENS.read(token) is None


def test_a_token_is_good_until_some_time_after_the_end() -> None:
    assert TOKENS.still_good(None, NOW)
    assert TOKENS.still_good(NOW, NOW + timedelta(seconds=59))
    assert not TOKENS.still_good(NOW, NOW + timedelta(seconds=60))
