"""Where the hub does not answer, one question is asked, the log says so, and everything after it is offline."""

import logging
import os

import huggingface_hub
import pytest
from huggingface_hub import constants

from scae.core.hub import use_what_is_here_if_unreachable


class Session:
    """Counts questions; answers where the hub can be reached."""

    def __init__(self, *, reachable: bool) -> None:
        self.reachable, self.asked = reachable, 0

    def head(self, url: str, timeout: float) -> None:
        assert url == constants.ENDPOINT
        assert timeout <= 5
        self.asked += 1
        if not self.reachable:
            raise ConnectionError("no route\nto it")


@pytest.fixture(params=[True, False], ids=["reachable", "unreachable"])
def session(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Session:
    session = Session(reachable=request.param)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    return session


def test_the_hub_is_asked_once(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="scae.core.hub"):
        use_what_is_here_if_unreachable()
    offline = not session.reachable
    assert offline == constants.HF_HUB_OFFLINE
    assert huggingface_hub.is_offline_mode() == offline
    assert os.environ["HF_HUB_OFFLINE"] == str(int(offline))  # for processes started from here
    said = f"{constants.ENDPOINT} cannot be reached (no route): only what is here already is used"
    assert [record.message for record in caplog.records] == [said] * offline
    if offline:
        use_what_is_here_if_unreachable()
    assert session.asked == 1


def test_a_model_of_the_hub_that_is_not_here_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from scae.lm import UnsupportedModelError, open_model

    session = Session(reachable=False)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(UnsupportedModelError, match=r"^model nobody/nothing: cannot be loaded: .*") as refused:
        open_model("nobody/nothing", dtype="float32", prepend_bos="auto")
    assert "\n" not in str(refused.value)
    assert session.asked == 1
