"""`python -m scae.label RUN_DIR`, against an endpoint on this machine."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from stand_in import StandIn, completion, oracle, snippets

from scae.label import endpoint
from scae.label.__main__ import main

TOKEN = "secret-0123456789"
CAT = "0.mlp/0"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "LONGEST_WAIT", 0.0)
    monkeypatch.delenv("SCAE_LABEL_TOKEN", raising=False)


def label(run: Path, server: StandIn | None, *more: str, model: str = "judge") -> int:
    where = ["--endpoint", server.url, "--model", model] if server is not None else []
    return main([str(run), *where, *more])


def labels(run: Path) -> dict[str, Any]:
    return json.loads((run / "labels.json").read_text())


def script(run: Path) -> tuple[str, dict[str, Any]]:
    text = (run / "pages" / "labels.js").read_text()
    found = re.fullmatch(r'scae_data\("labels", (.*)\);\n', text)
    assert found is not None
    return text, json.loads(found[1])


def test_an_oracle_scores_one(run: Path, server: StandIn, capsys: pytest.CaptureFixture) -> None:
    server.answers = oracle
    assert label(run, server, "--features", "10.attn/0,0.mlp/0,0.mlp/1") == 0
    content = labels(run)
    assert content["format"] == 1
    assert content["model"] == "judge"
    assert list(content["labels"]) == ["0.mlp/0", "0.mlp/1", "10.attn/0"]  # as sites stand, not as letters do
    first = content["labels"][CAT]
    assert first == {
        "label": "the word cat",
        "detection": 1.0,
        "fuzzing": 1.0,
        "examples": 8,
        "pass": "pruned",
        "model": "judge",
        "questions": 4,
        "unread": 0,
    }
    dog = content["labels"]["0.mlp/1"]
    assert (dog["label"], dog["detection"], dog["fuzzing"], dog["pass"]) == ("the word dog", 1.0, 1.0, "plain")
    assert content["unlabelled"] == {}
    assert script(run)[1] == content
    printed = capsys.readouterr().out.splitlines()
    sent = len(server.requests)
    assert printed[0] == f"sends text to {server.url}/chat/completions, model judge: 3 features, up to {sent} requests"
    assert printed[-1].startswith("labelled 3 of 3 features, mean detection 1.00, mean fuzzing 1.00: ")
    assert printed[-1].endswith("labels.json, pages/labels.js")


def test_a_request_has_the_shape_and_the_token_that_endpoints_expect(
    run: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("SCAE_LABEL_TOKEN", TOKEN)
    server.answers = lambda prompt: f"LABEL: {TOKEN}" if "one short phrase" in prompt else "[1]"
    assert label(run, server, "--features", CAT, "--max-tokens", "77") == 0
    request = server.requests[0]
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == f"Bearer {TOKEN}"
    assert request["headers"]["Content-Type"] == "application/json"
    assert set(request["body"]) == {"model", "messages", "temperature", "max_tokens"}
    assert request["body"]["model"] == "judge"
    assert request["body"]["temperature"] == 0
    assert request["body"]["max_tokens"] == 77
    assert [message["role"] for message in request["body"]["messages"]] == ["user"]
    captured = capfd.readouterr()
    assert TOKEN not in captured.out + captured.err
    for path in run.rglob("*"):
        assert not path.is_file() or TOKEN not in path.read_text()
    assert labels(run)["labels"][CAT]["label"] == "[token]"


def test_without_a_token_no_header_is_sent(run: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = oracle
    assert label(run, server, "--features", CAT) == 0
    assert "Authorization" not in server.requests[0]["headers"]
    monkeypatch.setenv("MINE", TOKEN)
    assert label(run, server, "--features", CAT, "--again", "--token-variable", "MINE") == 0
    assert server.requests[-1]["headers"]["Authorization"] == f"Bearer {TOKEN}"


def test_what_is_there_is_kept_unless_again(run: Path, server: StandIn, capsys: pytest.CaptureFixture) -> None:
    server.answers = oracle
    assert label(run, server, "--features", CAT) == 0
    before = (run / "labels.json").read_bytes()
    first = server.requests[:]
    server.requests.clear()
    assert label(run, server, "--features", CAT, model="other") == 0
    assert server.requests == []
    assert (run / "labels.json").read_bytes() == before
    assert "labelled 0 of 0 features, 1 were there already" in capsys.readouterr().out
    assert label(run, server, "--features", "0.mlp/0,0.mlp/4", model="other") == 0
    assert {name: entry["model"] for name, entry in labels(run)["labels"].items()} == {CAT: "judge", "0.mlp/4": "other"}
    server.requests.clear()
    assert label(run, server, "--features", CAT, "--again") == 0
    assert server.requests == first  # the same questions in the same order
    assert labels(run)["labels"][CAT]["model"] == "judge"
    assert "0.mlp/4" in labels(run)["labels"]
    server.requests.clear()
    assert label(run, server, "--features", CAT, "--again", "--seed", "1") == 0
    assert server.prompts[0] == first[0]["body"]["messages"][0]["content"]
    assert server.prompts[1:] != [request["body"]["messages"][0]["content"] for request in first[1:]]


def test_an_answer_does_not_depend_on_how_many_are_asked_at_once(run: Path, server: StandIn) -> None:
    server.answers = oracle
    found = []
    for concurrency in ("1", "7"):
        assert label(run, server, "--again", "--concurrency", concurrency) == 0
        found.append((run / "labels.json").read_bytes())
    assert found[0] == found[1]


def test_the_living_of_each_site_are_chosen_by_rate_or_by_activation(run: Path, server: StandIn) -> None:
    server.answers = oracle
    assert label(run, server, "--top", "2") == 0
    assert list(labels(run)["labels"]) == ["0.mlp/0", "0.mlp/3", "10.attn/0"]
    assert label(run, server, "--top", "1", "--sites", "0.mlp", "--by", "max") == 0
    assert list(labels(run)["labels"]) == ["0.mlp/0", "0.mlp/3", "10.attn/0"]  # the largest of 900 is of the densest
    assert label(run, server) == 0
    assert list(labels(run)["labels"]) == ["0.mlp/0", "0.mlp/3", "0.mlp/4", "10.attn/0"]


def test_a_feature_that_always_fires_is_labelled_and_not_scored(run: Path, server: StandIn) -> None:
    server.answers = oracle
    assert label(run, server, "--features", "0.mlp/3") == 0
    entry = labels(run)["labels"]["0.mlp/3"]
    assert entry["label"]
    assert entry["detection"] is None
    assert entry["fuzzing"] is None


def test_markup_of_the_text_and_of_an_answer_is_harmless(run: Path, server: StandIn) -> None:
    evil = "</script><script>alert(1)</script>\u2028<!-- \x1b[31m"
    server.answers = lambda prompt: f"LABEL: {evil}" if "one short phrase" in prompt else "[1]"
    assert label(run, server, "--features", "0.mlp/4") == 0
    text, content = script(run)
    assert "<" not in text
    assert "\u2028" not in text
    assert content["labels"]["0.mlp/4"]["label"] == "</script><script>alert(1)</script> <!-- [31m"
    assert "<<</script>\\n>>" in server.prompts[0]


def test_what_cannot_be_read_is_recorded_and_counted(run: Path, server: StandIn, capsys: pytest.CaptureFixture) -> None:
    refusals: list[Any] = [
        "I'm sorry, but I can't help with that.",
        (200, {}, completion(None, refusal="no")),
        (200, {}, {"choices": [{"finish_reason": "content_filter", "message": {"content": ""}}]}),
    ]
    for answer in refusals:
        server.answers = lambda prompt, answer=answer: answer
        assert label(run, server, "--features", CAT, "--again") == 0
        assert labels(run)["labels"] == {}
        assert labels(run)["unlabelled"][CAT]["problem"] == "refusal"
        assert "labelled 0 of 1 features, 1 refused: " in capsys.readouterr().out
    server.answers = lambda prompt: "It is about <b>cats</b>."
    assert label(run, server, "--features", CAT, "--again") == 0
    entry = labels(run)["unlabelled"][CAT]
    assert (entry["problem"], entry["answer"]) == ("unparseable", "It is about <b>cats</b>.")
    assert "1 without a readable description" in capsys.readouterr().out
    server.requests.clear()
    assert label(run, server, "--features", CAT) == 0
    assert server.requests == []  # it is known

    server.answers = lambda prompt: oracle(prompt) if "phrase" in prompt or "one token at least" in prompt else "[0, 1]"
    assert label(run, server, "--features", CAT, "--again") == 0
    entry = labels(run)["labels"][CAT]
    assert (entry["detection"], entry["fuzzing"], entry["questions"], entry["unread"]) == (1.0, None, 4, 2)
    assert labels(run)["unlabelled"] == {}
    assert "2 of 4 answers about snippets unreadable, mean detection 1.00: " in capsys.readouterr().out


@pytest.mark.parametrize("status", [429, 500, 503])
def test_it_asks_again_where_that_may_help(run: Path, server: StandIn, status: int) -> None:
    failures = [status] * 3
    server.answers = lambda prompt: (failures.pop(), {"Retry-After": "0"}, "busy") if failures else oracle(prompt)
    assert label(run, server, "--features", CAT) == 0
    assert labels(run)["labels"][CAT]["detection"] == 1.0
    assert server.prompts[0] == server.prompts[1] == server.prompts[2] == server.prompts[3]


def test_it_does_not_ask_for_ever(run: Path, server: StandIn, capsys: pytest.CaptureFixture) -> None:
    server.answers = lambda prompt: (503, {}, {"error": {"message": "overloaded\nvery"}})
    assert label(run, server, "--features", CAT) == 2
    assert len(server.requests) == endpoint.RETRIES + 1
    assert one_error(capsys) == f"error: {server.url}/chat/completions answered 503: overloaded very; asked 7 times"


def test_models_that_think_first_get_the_options_that_they_take(run: Path, server: StandIn) -> None:
    def picky(prompt: str) -> Any:
        body = server.requests[-1]["body"]
        for name in ("max_tokens", "temperature"):
            if name in body:
                return 400, {}, {"error": {"message": f"Unsupported parameter: '{name}'"}}
        return oracle(prompt)

    server.answers = picky
    assert label(run, server, "--features", CAT) == 0
    assert [set(request["body"]) - {"model", "messages"} for request in server.requests[:4]] == [
        {"max_tokens", "temperature"},
        {"max_completion_tokens", "temperature"},
        {"max_completion_tokens"},
        {"max_completion_tokens"},
    ]


def one_error(capsys: pytest.CaptureFixture) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            (401, {}, {"error": {"message": f"bad key {TOKEN}"}}),
            "answered 401: bad key [token]; the token is read from",
        ),
        ((404, {}, "no such model"), "answered 404: no such model; --endpoint is what stands before /chat/completions"),
        ((302, {"Location": "http://127.0.0.1:9/"}, ""), "answered 302"),
        ((200, {}, '{"choices": ['), 'answered with what is no chat completion: {"choices": ['),
        ((200, {}, ""), "answered with what is no chat completion: nothing"),
        ((200, {}, {"choices": []}), "no chat completion"),
        ((200, {}, {"choices": [{"message": {"content": 3}}]}), "no chat completion"),
        ((200, {}, {"choices": [{"message": "text"}]}), "no chat completion"),
    ],
)
def test_an_endpoint_in_error_is_one_line_and_status_2(
    run: Path,
    server: StandIn,
    answer: Any,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("SCAE_LABEL_TOKEN", TOKEN)
    server.answers = lambda prompt: answer
    assert label(run, server, "--features", CAT) == 2
    assert expected in one_error(capsys)
    assert len(server.requests) == 1


def test_no_connection_is_one_line_and_status_2(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        assert main([str(run), "--endpoint", url, "--model", "judge"]) == 2
    assert one_error(capsys).startswith(f"error: {url}/chat/completions cannot be reached: ")


def test_what_was_known_before_an_error_is_kept(run: Path, server: StandIn) -> None:
    answered = 0

    def failing(prompt: str) -> Any:
        nonlocal answered
        answered += 1
        return oracle(prompt) if answered <= 5 else (401, {}, "expired")

    server.answers = failing
    assert label(run, server, "--features", "0.mlp/0,10.attn/0", "--concurrency", "1") == 2
    assert len(labels(run)["labels"]) == 1
    assert script(run)[1] == labels(run)
    server.answers = oracle
    server.requests.clear()
    assert label(run, server, "--features", "0.mlp/0,10.attn/0") == 0
    assert len(server.requests) == 5
    assert len(labels(run)["labels"]) == 2


def test_a_dry_run_sends_nothing_and_writes_nothing(
    run: Path, server: StandIn, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection is opened")

    monkeypatch.setattr(socket, "create_connection", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    before = sorted(run.rglob("*"))
    assert label(run, server, "--features", CAT, "--dry-run") == 0
    assert main([str(run), "--dry-run"]) == 0  # whoever will be asked
    assert server.requests == []
    assert sorted(run.rglob("*")) == before
    printed = capsys.readouterr().out
    assert f"would ask {server.url}/chat/completions: 1 features, up to 5 requests; nothing is sent" in printed
    assert "the first prompt, about 0.mlp/0:" in printed
    assert "<< cat>>" in printed
    assert len(snippets(printed)) == 16


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "who is to be asked? give --endpoint URL and --model NAME, or --local DIR"),
        (["--endpoint", "http://h/v1"], "--endpoint needs --model NAME"),
        (["--endpoint", "ftp://h", "--model", "m"], "--endpoint is no address such as http://localhost:8000/v1"),
        (["--endpoint", "http://[", "--model", "m"], "--endpoint is no address such as http://localhost:8000/v1"),
        (["--endpoint", "http://u:p@h/v1", "--model", "m"], "must hold no user or password"),
        (["--dry-run", "--features", "0.mlp/9"], "--features 0.mlp/9: 0.mlp has features 0 to 4"),
        (["--dry-run", "--features", "0.mlp/2"], "--features 0.mlp/2: it never fires"),
        (["--dry-run", "--features", "cat"], "allowed: SITE/NUMBER with a site of 0.mlp, 10.attn"),
        (["--dry-run", "--sites", "3.mlp"], "--sites 3.mlp: no site of the analysis, allowed: 0.mlp, 10.attn"),
        (["--local", "/nowhere"], "--local /nowhere is no folder of a Hugging Face model"),
    ],
)
def test_a_wrong_command_is_one_line_and_status_2(
    run: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture
) -> None:
    assert main([str(run), *arguments]) == 2
    assert expected in one_error(capsys)


def test_a_run_that_cannot_be_labelled_says_why(run: Path, capsys: pytest.CaptureFixture) -> None:
    with FileLock(run / ".labels.lock"):
        assert main([str(run), "--local", str(run)]) == 2
    assert "another command labels" in one_error(capsys)
    (run / "labels.json").write_text('{"format": 7, "labels": {}}')
    assert main([str(run), "--dry-run"]) == 2
    assert "holds no labels that this version can read (format 7, expected 1)" in one_error(capsys)
    for content, expected in (
        ('{"stages": {"analyze": "../gone"}}', "what its stage analyze made is gone"),
        ('{"stages": {}}', "has no stage analyze"),
        ("{", "run.json is damaged"),
        (None, "is no finished run: it holds no run.json"),
    ):
        (run / "run.json").unlink() if content is None else (run / "run.json").write_text(content)
        assert main([str(run), "--dry-run"]) == 2
        assert expected in one_error(capsys)


def test_pages_that_are_there_are_made_again(run: Path, server: StandIn, capsys: pytest.CaptureFixture) -> None:
    server.answers = oracle
    (run / "features.html").touch()
    assert label(run, server, "--features", CAT) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "; features.html does not show them yet: " in last
    assert "holds no metrics to report" in last
    (run / "metrics.json").write_text('{"lm/ce": 1.6, "plain/ce": 2.2, "plain/fvu_mean": 0.2}')
    assert label(run, server, "--features", CAT) == 0  # nothing is new
    assert not (run / "report.md").exists()
    assert label(run, server, "--features", CAT, "--again") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("pages/labels.js, features.html")
    assert (run / "report.md").is_file()


def test_an_endpoint_is_asked_without_torch(run: Path) -> None:
    """And the package of the command imports no client beside the standard library's."""
    code = (
        "import sys; from scae.label.__main__ import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'httpx', 'requests'} & set(sys.modules); sys.exit(status)"
    )
    subprocess.run([sys.executable, "-c", code, str(run), "--dry-run"], check=True, stdout=subprocess.DEVNULL)
