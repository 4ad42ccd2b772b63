"""Spreads the tables of a provider's contract over the tests that ask for one of their rows."""

import pytest

pytest.register_assert_rewrite("tests.providers.contract_suite", "tests.providers.verbs_suite")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of the suite that takes `collect_case` runs once for each row of its class's `collect_cases`, and so on."""
    for name in ("collect_case", "fetch_case", "amount_case", "refused_order", "event_case"):
        rows = getattr(metafunc.cls, f"{name}s", None)
        if name in metafunc.fixturenames and rows is not None:
            metafunc.parametrize(name, rows, ids=[row.name for row in rows])
    verbs = getattr(metafunc.cls, "verbs", None)
    if "verb" in metafunc.fixturenames and verbs is not None:
        metafunc.parametrize("verb", verbs, ids=[str(verb) for verb in verbs])
