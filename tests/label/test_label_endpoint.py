"""How an endpoint is asked, and asked again."""

import threading
from typing import Any

import pytest
from stand_in import StandIn

from scae.label.endpoint import LONGEST_WAIT, Endpoint
from scae.label.failures import LabelError


class Waits:
    """In place of the event that ends waiting: it never comes, and what is waited for is noted."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return False


def opened(url: str, *, token: str = "", timeout: float = 10.0) -> Endpoint:
    return Endpoint(url, model="judge", token=token, variable="TOKEN", timeout=timeout, longest=100)


def waiting(asked: Endpoint) -> Waits:
    waits = Waits()
    asked.stopped = waits  # type: ignore[assignment]
    return waits


def test_it_waits_twice_as_long_each_time_or_as_long_as_it_is_told(server: StandIn) -> None:
    asked = opened(server.url)
    waits = waiting(asked)
    headers: list[dict[str, str]] = [
        {"Retry-After": value} for value in ("7", "100000", "Wed, 21 Oct 2015 07:28:00 GMT")
    ]
    replies: list[Any] = [(429, {}, ""), (503, {}, ""), *((429, header, "") for header in headers), "yes"]
    server.answers = lambda prompt: replies.pop(0)
    assert asked("a question").text == "yes"
    assert waits.seconds == [1.0, 2.0, 7.0, LONGEST_WAIT, 16.0]
    assert server.prompts == ["a question"] * 6


def test_one_that_is_silent_is_asked_again(server: StandIn) -> None:
    asked, over = opened(server.url, timeout=0.1), threading.Event()
    waiting(asked)

    def slow(prompt: str) -> str:
        if len(server.requests) == 1:
            over.wait(10)
        return "yes"

    server.answers = slow
    try:
        assert asked("a question").text == "yes"
    finally:
        over.set()
    assert len(server.requests) == 2


def test_one_that_hangs_up_is_asked_again(server: StandIn) -> None:
    asked = opened(server.url)
    waiting(asked)

    def hangs_up(prompt: str) -> str:
        if len(server.requests) == 1:
            raise ConnectionAbortedError
        return "yes"

    server.answers = hangs_up
    server.server.handle_error = lambda *_: None  # type: ignore[method-assign]
    assert asked("a question").text == "yes"


def test_nothing_is_sent_once_it_is_stopped(server: StandIn) -> None:
    asked = opened(server.url)
    asked.stopped.set()
    with pytest.raises(LabelError, match="stopped"):
        asked("a question")
    assert server.requests == []


@pytest.mark.parametrize(
    ("url", "path"),
    [("/v1", "/v1/chat/completions"), ("/", "/chat/completions"), ("", "/chat/completions")]
    + [(end, "/v1/chat/completions") for end in ("/v1/", "/v1/chat/completions")]
    + [("/v1?api-version=1&key=hidden", "/v1/chat/completions?api-version=1&key=hidden")],
)
def test_an_address_is_what_stands_before_the_path_of_the_protocol(server: StandIn, url: str, path: str) -> None:
    server.answers = lambda prompt: "yes"
    asked = opened(server.url.removesuffix("/v1") + url)
    asked("a question")
    assert server.requests[0]["path"] == path
    assert asked.place.endswith("/chat/completions")  # without what may be a key


def test_proxies_are_those_of_the_environment(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    server.answers = lambda prompt: "yes"
    assert opened("http://label.invalid/v1")("a question").text == "yes"
    assert server.requests[0]["path"] == "http://label.invalid/v1/chat/completions"


def test_a_token_that_no_header_may_have_is_not_shown() -> None:
    for token in ("se\ncret", "sécret"):
        with pytest.raises(LabelError, match="variable TOKEN holds no token") as error:
            opened("http://localhost/v1", token=token)
        assert "cret" not in str(error.value)


def test_a_token_may_end_with_a_line(server: StandIn) -> None:
    server.answers = lambda prompt: "yes"
    opened(server.url, token="secret\n")("a question")
    assert server.requests[0]["headers"]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("body", [{"choices": [{"message": {"content": [{"type": "text", "text": "yes"}]}}]}])
def test_content_in_parts_is_joined(server: StandIn, body: dict[str, Any]) -> None:
    server.answers = lambda prompt: (200, {}, body)
    assert opened(server.url)("a question").text == "yes"


def test_a_refused_option_that_is_not_there_is_an_error(server: StandIn) -> None:
    server.answers = lambda prompt: (400, {}, {"error": {"message": "max_completion_tokens and temperature are wrong"}})
    with pytest.raises(LabelError, match="answered 400: max_completion_tokens and temperature are wrong"):
        opened(server.url)("a question")
    assert len(server.requests) == 2  # once without the temperature
