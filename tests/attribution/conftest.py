"""One window of the tiny models, and a pruned suite of each sort for it."""

from typing import Any

import pytest
from pruned_suites import SORTS, Make, Ragged, pruned_suite, window

from scae.lm import LanguageModel, Trace
from scae.suite import Suite


@pytest.fixture(scope="session")
def one(lm: LanguageModel, batch: tuple[Any, Any]) -> Trace:
    return window(lm, batch)


@pytest.fixture(scope="module", params=SORTS)
def sort(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def suite(lm: LanguageModel, sort: str, make_suite: Make, ragged: Ragged, one: Trace) -> Suite:
    return pruned_suite(lm, sort, make_suite, ragged, one)
