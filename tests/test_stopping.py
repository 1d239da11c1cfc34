"""The real command, killed or asked to stop in every stage and then repeated: it ends as if nothing had happened."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import commands
import pytest
from experiments import MICRO, ROOT, corpus, untimed

STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
STOP_AT = {
    "model": "scae.lm.tiny:TinyTraining.training_step:50",
    "pretrain": "scae.training.module:SuiteTraining.training_step:8",
    "select": "scae.connections:Connections.save:1",
    "finetune": "scae.training.module:SuiteTraining.training_step:6",
    "evaluate": "scae.evaluation.unigram:Unigram.result:1",
    "analyze": "scae.analysis.database:write_codes:3",
}
FITS = ("model", "pretrain", "finetune")
STAGES = dict.fromkeys(STATUS, tuple(STOP_AT)) | {signal.SIGINT: ("pretrain", "analyze")}
"""SIGINT is caught as SIGTERM is: in a fit, and outside of one."""
LOGGED = ("logger.every=2",)
PROGRAM = '''
"""`stop.py MODULE:FUNCTION:N SIGNAL WHOM train.py OVERRIDES`: the command, which is sent a signal when a function has
returned for the n-th time. Processes that it starts run train.py."""
import importlib.util, os, runpy, sys

_, at, signum, whom, *sys.argv = sys.argv
module, name, n = at.split(":")
calls = 0

class Finder:
    @staticmethod
    def find_spec(fullname, path=None, target=None):
        if fullname != module:
            return None
        sys.meta_path.remove(Finder)
        spec = importlib.util.find_spec(fullname)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda loaded: (run(loaded), wrap(loaded))
        return spec

def wrap(loaded):
    *owners, last = name.split(".")
    owner = getattr(loaded, owners[0]) if owners else loaded
    function = getattr(owner, last)

    def counting(*args, **kwargs):
        global calls
        returned = function(*args, **kwargs)
        calls += 1
        if calls == int(n):
            os.killpg(0, int(signum)) if whom == "group" else os.kill(os.getpid(), int(signum))
        return returned

    setattr(owner, last, counting)

sys.meta_path.insert(0, Finder)
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
'''

pytestmark = pytest.mark.slow


class Command:
    """Runs train.py in `folder`, with artifacts of its own, and sends it signals from inside."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.folder, self.root = folder, folder / "artifacts"
        folder.mkdir(exist_ok=True)
        (folder / "stop.py").write_text(PROGRAM)
        self.overrides = (*overrides, f"paths.artifacts={self.root}")

    def stop(self, stage: str, signum: int, *overrides: str, group: bool = False) -> tuple[int, str]:
        """Its exit status and what it wrote to stderr when it was stopped in a stage."""
        asked = (STOP_AT[stage], str(int(signum)), "group" if group else "itself")
        return self._run(self.folder / "stop.py", *asked, ROOT / "train.py", *overrides, *self.overrides)

    def finish(self) -> tuple[dict[str, Any], dict[str, float]]:
        """Run to the end; what the artifacts hold, and the metrics without times, none where none were made."""
        status, told = self._run(ROOT / "train.py", *self.overrides, f"hydra.run.dir={self.folder / 'run'}")
        assert status == 0, told
        written = self.folder / "run" / "metrics.json"
        return content(self.root), untimed(json.loads(written.read_text()) if written.exists() else {})

    def _run(self, *arguments: str | Path) -> tuple[int, str]:
        running = commands.Running(*arguments, cwd=self.folder)
        done = running.done()
        patience = time.monotonic() + 20
        while has_processes(running.pid):
            assert time.monotonic() < patience, f"processes are left\n{done.stderr}"
            time.sleep(0.1)
        return done.returncode, done.stderr


def has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def content(root: Path) -> dict[str, Any]:
    """Every file of the finished artifacts but for times and the name of the command; the last checkpoint depends on
    the clock."""
    found: dict[str, Any] = {}
    for path in root.rglob("*"):
        if path.is_file() and path.suffix not in (".lock", ".ckpt"):
            name = str(path.relative_to(root))
            found[name] = path.read_bytes()
            if path.name == "artifact.json":
                note = json.loads(found[name])
                found[name] = {key: value for key, value in note.items() if key not in ("finished", "command")}
                found[name].get("facts", {}).pop("seconds", None)
            elif path.suffix == ".safetensors":  # its header is in no certain order
                start = 8 + int.from_bytes(found[name][:8], "little")
                found[name] = json.loads(found[name][8:start]), found[name][start:]
    return found


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    corpus(path)
    return f"data.path={path}"


@pytest.fixture(scope="module")
def whole(text: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, float]]:
    """The artifacts and the metrics of a run that nobody stops."""
    return Command(tmp_path_factory.mktemp("whole") / "command", *MICRO, *LOGGED, text).finish()


@pytest.mark.parametrize("signum", list(STATUS), ids=lambda signum: signum.name)
def test_stopped_in_its_stages_it_ends_like_an_uninterrupted_run(
    whole: tuple[dict[str, Any], dict[str, float]], text: str, tmp_path: Path, signum: signal.Signals
) -> None:
    """Every command continues where the one before was stopped, and is stopped in a later stage."""
    often = ["trainer.checkpoint_minutes=0.0005"] if signum == signal.SIGKILL else []
    command = Command(tmp_path, *MICRO, *LOGGED, *often, text)
    for stage in STAGES[signum]:
        status, told = command.stop(stage, signum)
        assert status == STATUS[signum], told
        assert "Traceback" not in told
        (partial,) = command.root.glob("*.partial")
        assert partial.name.startswith(stage)
        lines = [line for line in told.splitlines() if "stopped by" in line]
        if signum == signal.SIGKILL:
            assert lines == []
        else:
            assert len(lines) == 1
            assert lines[0].endswith("; the same command continues")
            assert (f"stopped by {signum.name} in {stage} after step" in lines[0]) == (stage in FITS)
            assert (partial / "last.ckpt").exists() == (stage in FITS)
    artifacts, metrics = command.finish()
    assert metrics == whole[1]
    assert artifacts.keys() == whole[0].keys()
    assert len([name for name in artifacts if name.endswith("logs/metrics.csv")]) == 3
    assert [name for name, value in artifacts.items() if value != whole[0][name]] == []


VALIDATED = (
    *("pretrain.validation.every=2", "pretrain.validation.tokens=128", "pretrain.validation.keep=best"),
    *("pretrain.lr=1.0", "pretrain.warmup=0.95", "pretrain.decay=0"),  # the loss falls and then rises
    *("finetune.validation.every=3", "finetune.validation.tokens=128", "finetune.validation.keep=best"),
    *("trainer.checkpoint_steps=2", "trainer.keep_checkpoints=2", "model.steps=20", "stages=[finetune]"),
)


def test_the_best_suite_survives_a_kill(text: str, tmp_path: Path) -> None:
    """Its validation was before the last checkpoint; suites on the way are those of a run that nobody killed."""
    made = []
    for name in ("whole", "killed"):
        command = Command(tmp_path / name, *MICRO, *LOGGED, *VALIDATED, text)
        for stage in ("pretrain", "finetune") if name == "killed" else ():
            assert command.stop(stage, signal.SIGKILL)[0] == -9
            (partial,) = command.root.glob("*.partial")
            assert (partial / "last.ckpt").exists()
        made.append(command.finish()[0])
    whole, killed = made
    (note,) = (
        value for name, value in whole.items() if name.startswith("pretrain-") and name.endswith("artifact.json")
    )
    assert note["facts"]["validation"]["best_step"] <= 6
    assert sum("/steps/" in name for name in whole) == 2 * 2 + 2 * 3
    assert killed.keys() == whole.keys()
    assert [name for name, value in killed.items() if value != whole[name]] == []


def test_two_processes_stop_together(text: str, tmp_path: Path) -> None:
    """Asked alone in a fit; as a group, as by Ctrl-C, while the other one waits; the first one killed in a fit."""
    two = [override for override in MICRO if override != "trainer=cpu"]
    two += ["trainer=ddp", "trainer.accelerator=cpu", "trainer.progress=false"]
    command = Command(tmp_path, *two, "model.steps=20", text)
    status, told = command.stop("pretrain", signal.SIGTERM)
    assert status == 143, told
    assert told.count("stopped by SIGTERM in pretrain after step 8 of 12; the same command continues") == 1
    status, told = command.stop("select", signal.SIGINT, group=True)
    assert "pretrain: resuming from" in told
    assert status == 130, told
    assert told.count("stopped by SIGINT; the same command continues") == 1
    assert "Traceback" not in told
    status, told = command.stop("finetune", signal.SIGKILL)
    assert status == -9, told


def test_a_sweep_ends_with_the_job_that_is_stopped(text: str, tmp_path: Path) -> None:
    command = Command(tmp_path, *MICRO, "model.steps=20", text)
    sweep = ["-m", "connectivity.C=3,4", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    status, told = command.stop("pretrain", signal.SIGTERM, *sweep)
    assert status == 143, told
    assert told.count("stopped by SIGTERM") == 1
    assert json.loads((tmp_path / "sweep" / "0" / "job.json").read_text())["status"] == "stopped"
    assert not (tmp_path / "sweep" / "1").exists()
    assert len(list(command.root.glob("pretrain-*.partial/last.ckpt"))) == 1
