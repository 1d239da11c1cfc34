"""`python -m scae.artifacts`: what is used, what may go, and that nothing else ever goes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from scae.artifacts import Artifact, leading
from scae.artifacts.__main__ import main
from scae.artifacts.inventory import inventory, remove, unused


def fill(folder: Path) -> dict[str, Any]:
    (folder / "suite.safetensors").write_bytes(bytes(2_000_000))
    return {"tokens": 0}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """Two experiments on one text, of which one has a run; and what a killed job has left. The names that are there."""
    monkeypatch.chdir(tmp_path)
    root = Path("artifacts")
    text = {"data": {"context": 8}, "corpus": "c1"}
    model = Artifact(root, "model", text | {"seed": 0})
    pretrain = Artifact(root, "pretrain", text, (model.name,))
    others = Artifact(root, "pretrain", text | {"lr": 2}, (model.name,))
    selects = [Artifact(root, "select", {"C": C}, (pretrain.name,)) for C in (1, 2)]
    finetune = Artifact(root, "finetune", {}, (pretrain.name, selects[0].name))
    evaluate = Artifact(root, "evaluate", {}, (finetune.name,))
    separator = Artifact(root, "separator", {"corpus": "c1"})
    for artifact in (model, pretrain, others, *selects, finetune, evaluate, separator):
        artifact.build(fill)
    for name, context in (("tokens-00000000000000a1", 8), ("tokens-00000000000000b2", 16)):
        (root / name).mkdir()
        note = {"made_from": {"data": {"context": context}, "corpus": "c1"}}
        (root / name / "artifact.json").write_text(json.dumps(note))
    (root / "finetune-0000000000c3.partial").mkdir()
    (root / "finetune-0000000000c3.partial" / "last.ckpt").write_bytes(bytes(1_000_000))
    (root / "job-0000000000d4").write_text("make x\n")
    for foreign in ("model-backup", "my-notes"):
        (root / foreign).mkdir()
    run = Path("multirun/a/0")
    run.mkdir(parents=True)
    stages = {"finetune": finetune.name, "evaluate": evaluate.name}
    stages = {stage: f"../../../artifacts/{name}" for stage, name in stages.items()}
    (run / "run.json").write_text(json.dumps({"model": {"name": "gpt2"}, "stages": stages}))
    return lambda: {path.name for path in root.iterdir() if path.suffix != ".lock"}


FOREIGN = {"model-backup", "my-notes"}


def removable() -> set[str]:
    return {entry.name for entry in unused(inventory(Path("artifacts"), Path("multirun")))}


def test_what_a_run_was_made_from_is_used(store: Callable[[], set[str]]) -> None:
    may_go = removable()
    assert sorted(name.partition("-")[0] for name in may_go) == ["finetune", "job", "pretrain", "select", "tokens"]
    assert not may_go & FOREIGN
    assert {"finetune-0000000000c3.partial", "job-0000000000d4", "tokens-00000000000000b2"} < may_go


def test_the_list_says_size_state_and_users(store: Callable[[], set[str]], capsys: pytest.CaptureFixture[str]) -> None:
    before = store()
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(before - FOREIGN) + 2
    by_name = {line.split()[0]: line for line in lines}
    assert all(name not in line.removeprefix(name) for name, line in by_name.items())  # nothing is used by itself
    (finetune,) = [line for name, line in by_name.items() if name.startswith("finetune") and "partial" not in name]
    assert "2.0 MB" in finetune
    assert "complete" in finetune
    assert "evaluate-" in finetune
    assert "multirun/a/0" in finetune
    for part in ("1.0 MB", "interrupted", "nobody"):
        assert part in by_name["finetune-0000000000c3.partial"]
    assert "17.0 MB" in by_name["together"]
    assert store() == before


def test_nothing_is_removed_without_a_yes(store: Callable[[], set[str]], capsys: pytest.CaptureFixture[str]) -> None:
    before = store()
    assert main(["clean"]) == 0  # no terminal that could be asked
    told = capsys.readouterr().out
    assert all(name in told for name in removable())
    assert "nothing was removed" in told
    assert store() == before


@pytest.mark.parametrize(("answer", "goes"), [("n", False), ("", False), ("y", True)])
def test_a_terminal_is_asked(
    store: Callable[[], set[str]], answer: str, goes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, may_go = store(), removable()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda *_: answer)
    main(["clean"])
    assert store() == (before - may_go if goes else before)


def test_what_is_removed_is_said(store: Callable[[], set[str]], capsys: pytest.CaptureFixture[str]) -> None:
    before, may_go = store(), removable()
    assert main(["clean", "--yes"]) == 0
    told = [line.removeprefix("removed artifacts/") for line in capsys.readouterr().out.splitlines()]
    assert may_go <= set(told)
    assert store() == before - may_go
    assert removable() == set()
    main(["clean", "--yes"])
    assert "nothing to remove" in capsys.readouterr().out


def test_nothing_is_removed_while_somebody_works(
    store: Callable[[], set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """What a job is going to read, no finished run names yet."""
    before = store()
    with FileLock("artifacts/finetune-0000000000c3.lock"):
        main(["clean", "--yes"])
        (entry,) = [
            e for e in inventory(Path("artifacts"), Path("multirun")) if e.name == "finetune-0000000000c3.partial"
        ]
        assert (entry.name, entry.state) == ("finetune-0000000000c3.partial", "under work")
        assert not remove(entry)
    assert "somebody works on finetune-0000000000c3.partial" in capsys.readouterr().out
    with leading(Path("artifacts")):
        assert removable() == set()
    assert store() == before


def test_a_wrong_folder_is_one_line(
    store: Callable[[], set[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = store()
    for option in ("--runs", "--artifacts"):
        assert main(["clean", "--yes", option, "nowhere"]) == 2
        assert capsys.readouterr().err == f"error: {option}=nowhere: no such folder\n"
    assert store() == before
