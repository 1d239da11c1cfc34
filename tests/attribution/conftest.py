"""One window of the tiny models, and a pruned suite of each sort for it."""

import pytest
from pruned_suites import SORTS, one, suite

__all__ = ["one", "suite"]


@pytest.fixture(scope="module", params=SORTS)
def sort(request: pytest.FixtureRequest) -> str:
    return request.param
