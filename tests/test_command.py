"""The command: one clear error, no traceback, a record of every job, sweeps that survive a bad job, DDP in a sweep."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from scae.command import command, values
from scae.command.relaunch import DEPTH, RANK_VARIABLES, release_job, stop_processes
from scae.config import parse
from scae.core.failures import NonFiniteError

ROOT = Path(__file__).parents[1]
Run = Callable[..., Path]


def task(config: DictConfig) -> float:
    """Stands for train.py: checks, then an experiment that may fail, be stopped, or show what it was given."""
    checked = parse(values(config))
    if checked.seed == 7:
        raise RuntimeError("seven is unlucky")
    if checked.seed == 8:
        raise NonFiniteError("pretrain stopped\n  batch: micro-step 3")
    if checked.seed > 1000:
        os.kill(os.getpid(), checked.seed - 1000)
    directory = Path(HydraConfig.get().runtime.output_dir)
    (directory / "argv.json").write_text(json.dumps([*sys.argv[1:], f"hydra.run.dir={HydraConfig.get().run.dir}"]))
    (directory / "seen.json").write_text(json.dumps([checked.optimized_metric, checked.sites.layers, checked.seed]))
    os.environ["LOCAL_RANK"] = "0"  # as Lightning's launcher does
    return 0.0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process, in a directory of its own; returns the output directory of the run or sweep."""
    for name in (*RANK_VARIABLES, DEPTH, "RANK", "SLURM_PROCID", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    main = command(config_path=str(ROOT / "conf"), config_name="train")(task)

    def run(*arguments: str, directory: str = "out") -> Path:
        where = [f"hydra.{mode}.dir={tmp_path / directory}" for mode in ("run", "sweep")]
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *where])
        main()
        return tmp_path / directory

    return run


def job(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "job.json").read_text())


def refusal(run: Run, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    assert left.value.code == 1
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert "HYDRA_FULL_ERROR" not in told.err
    return told.err


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("sae.kk=3", ["sae.kk: no such key", "did you mean `sae.k`?"]),
        ("seae.k=3", ["seae: no such key", "did you mean `sae`?"]),
        ("saee=topk", ["saee: no such key", "did you mean `sae`?"]),
        ("sae=topkk", ["sae=topkk: no such choice", "batchtopk", "did you mean `topk`?"]),
        ("ckpt_path=epoch=1.ckpt", ["ckpt_path=epoch=1.ckpt", "needs quotes"]),
        (
            "sae=base",
            ["sae=base: no such choice; allowed: batchtopk, gated, groupmax, jumprelu, matryoshka, topk, vanilla"],
        ),
        ("loss=base", ["loss=base: no such choice; allowed: ce, e2e, kl, recon, recon_kl"]),
        ("data=windows", ["data=windows: no such choice; allowed: hub, openwebtext, pile, stdlib, text"]),
        (
            "sae.l1=0.1",
            [
                "sae.l1: no such key",
                "allowed in sae: features, expansion, centred, normalise, bound, auxk",
            ],
        ),
        ("sae.auxk.weight=0", ["sae.auxk.weight: no such key", "allowed in sae.auxk: k, dead_after"]),
        ("sae=null", ["sae=null"]),
        ("optimizer=muon", ["'optimizer'", "optimizer@finetune.optimizer, optimizer@pretrain.optimizer?"]),
        ("sae.k=1,2", ["--multirun"]),
        ("hydra.run.dri=x", ["did you mean `hydra.run.dir`?"]),
        ("--config-name=trian", ["trian"]),
    ],
)
def test_what_hydra_refuses(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, argument: str, told: list[str]
) -> None:
    message = refusal(run, capsys, argument)
    for part in told:
        assert part in message
    assert "To append" not in message
    assert not (tmp_path / "out").exists()


@pytest.fixture
def presets(tmp_path: Path) -> Callable[[str], str]:
    """Write a preset of the user's own; returns the flag that finds it."""

    def write(text: str) -> str:
        (tmp_path / "mine/experiment").mkdir(parents=True)
        (tmp_path / "mine/experiment/own.yaml").write_text(f"# @package _global_\n{text}")
        return f"--config-dir={tmp_path / 'mine'}"

    return write


def test_a_key_of_a_preset_that_a_choice_does_not_have(
    run: Run, capsys: pytest.CaptureFixture[str], presets: Callable[[str], str]
) -> None:
    mine = presets("sae: {k: 4}\nmodel: {d_model: 32}\n")
    run(mine, "experiment=own")
    told = refusal(run, capsys, mine, "experiment=own", "sae=vanilla", "model=hub", "model.name=a/b")
    assert "sae.k: no such key; allowed in sae: features, " in told
    assert "experiment=own sets it, `~sae.k` takes it back" in told
    assert "experiment=own sets it, `~model.d_model` takes it back" in told
    record = job(run(mine, "experiment=own", "sae=vanilla", "~sae.k", directory="back"))
    assert record["status"] == "completed"


def test_a_typed_l0_that_nothing_reads_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("l0=8", "sae=topk", directory="read")
    run("experiment=smoke", "sae=vanilla", directory="preset")
    assert "is not read" not in capsys.readouterr().err
    run("l0=8", "sae=vanilla", directory="unread")
    assert capsys.readouterr().err.count("WARNING: l0=8 is not read: sae=vanilla") == 1


@pytest.mark.parametrize("value", ["!!python/object:os.system 4", "[4"])
def test_a_yaml_that_is_none_is_named_by_file_and_line(
    run: Run, capsys: pytest.CaptureFixture[str], presets: Callable[[str], str], tmp_path: Path, value: str
) -> None:
    told = refusal(run, capsys, presets(f"sae:\n  k: {value}\n"), "experiment=own")
    assert f'"{tmp_path}/mine/experiment/own.yaml", line 3' in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("taken", ["out", "out/test_command.log", "out/job.json"])
def test_a_run_directory_that_cannot_be_written(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, taken: str
) -> None:
    """A file in place of the folder, a folder in place of a file: what a read-only place does, for root too."""
    if taken == "out":
        (tmp_path / taken).touch()
    else:
        (tmp_path / taken / "in the way").mkdir(parents=True)
    told = refusal(run, capsys)
    assert f"{tmp_path / taken}" in told
    assert "a folder for the run that can be written (hydra.run.dir, hydra.sweep.dir)" in told
    assert len(told.splitlines()) == 1


def test_a_run_directory_with_spaces_also_for_the_processes_of_other_devices(run: Run, tmp_path: Path) -> None:
    directory = run("seed=1", directory="my run")
    argv = json.loads((directory / "argv.json").read_text())
    seen = (directory / "seen.json").read_text()
    (directory / "seen.json").unlink()
    key, _, value = argv[-1].partition("=")
    assert (key, value) == ("hydra.run.dir", str(tmp_path / "my run"))
    sys.argv[1:] = [*argv[:-1], f'{key}="{value}"']  # as Lightning writes it
    command(config_path=str(ROOT / "conf"), config_name="train")(task)()
    assert (directory / "seen.json").read_text() == seen


def test_a_bad_value_is_told_once_logged_and_recorded(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = refusal(run, capsys, "sae.k=abc")
    assert message.count("sae.k='abc': allowed: an integer") == 1
    assert len(message.splitlines()) == 1
    assert "sae.k='abc'" in next((tmp_path / "out").glob("*.log")).read_text()
    assert job(tmp_path / "out")["status"] == "failed"
    assert "sae.k='abc'" in job(tmp_path / "out")["error"]


def test_an_interpolation_in_an_override(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean `sae.k`?" in refusal(run, capsys, "sae.k=${sae.kk}")
    assert job(tmp_path / "out")["overrides"] == ["sae.k=${sae.kk}"]


def test_an_unexpected_error_keeps_its_traceback(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        run("seed=7")
    assert left.value.code == 1
    for text in (capsys.readouterr().err, next((tmp_path / "out").glob("*.log")).read_text()):
        assert text.count("Traceback") == 1
        assert "RuntimeError: seven is unlucky" in text
    assert job(tmp_path / "out")["error"] == "RuntimeError: seven is unlucky"


def test_training_that_stopped_is_told_without_a_traceback(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = refusal(run, capsys, "seed=8")
    assert message.endswith("ERROR: pretrain stopped\n  batch: micro-step 3\n")
    assert message.count("pretrain stopped") == 1
    assert job(tmp_path / "out")["error"] == "pretrain stopped batch: micro-step 3"


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_with_one_line_and_its_status(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, signum: int, status: int
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as left:
        run(f"seed={1000 + signum}")
    assert left.value.code == status
    told = f"stopped by {signal.Signals(signum).name}; the same command continues"
    assert capsys.readouterr().err.count(told) == 1
    assert next((tmp_path / "out").glob("*.log")).read_text().count(told) == 1
    assert job(tmp_path / "out")["status"] == "stopped"
    assert job(tmp_path / "out")["error"] == told
    assert not (tmp_path / "out" / "seen.json").exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_ends_a_sweep_and_not_only_its_job(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as left:
        run("-m", "seed=1,1015,2")
    assert left.value.code == 143
    assert capsys.readouterr().err.splitlines()[-1].endswith("stopped by SIGTERM; the same command continues")
    assert [job(tmp_path / "out" / name)["status"] for name in "01"] == ["completed", "stopped"]
    assert not (tmp_path / "out" / "2").exists()


def test_a_signal_before_the_first_job(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scae.command.main.check_launch", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as left:
        run()
    assert left.value.code == 143
    assert capsys.readouterr().err == "stopped by SIGTERM; the same command continues\n"


def test_a_process_that_was_launched_for_a_job_leaves_the_status_to_the_first(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEPTH, "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as left:
        run("seed=1015")
    assert left.value.code == 0
    assert "stopped" not in capsys.readouterr().err


def test_a_launched_process_ends_with_the_one_that_launched_it(tmp_path: Path) -> None:
    """The first process is killed while the other one waits for it."""
    other = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from scae.command.relaunch import end_with_parent
end_with_parent()
open("pid.part", "w").write(str(os.getpid()))
os.rename("pid.part", "pid")
time.sleep(60)
"""
    first = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {other!r}])"
    process = subprocess.Popen([sys.executable, "-c", first], cwd=tmp_path)
    until(lambda: (tmp_path / "pid").exists())
    process.kill()
    process.wait()
    until(lambda: not is_alive(int((tmp_path / "pid").read_text())))


def until(condition: Callable[[], bool]) -> None:
    patience = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_record_of_a_run(run: Run) -> None:
    record = job(run("sae=batchtopk", "seed=3"))
    assert record["status"] == "completed"
    assert record["error"] is None
    assert record["overrides"] == ["sae=batchtopk", "seed=3"]
    assert record["choices"]["sae"] == "batchtopk"
    assert not any(group.startswith("hydra/") for group in record["choices"])
    assert record["seconds"] >= 0
    assert DEPTH not in os.environ
    assert "LOCAL_RANK" not in os.environ


def test_other_processes_of_a_job_write_no_record(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not (run() / "job.json").exists()
    assert "LOCAL_RANK" in os.environ


def test_a_sweep_goes_on_after_a_bad_job(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        run("-m", "seed=-1,7,2")
    assert left.value.code == 1
    told = capsys.readouterr().err
    sweep = tmp_path / "out"
    assert [job(sweep / name)["status"] for name in "012"] == ["failed", "failed", "completed"]
    assert told.rpartition("these jobs failed:")[2].count("\n  ") == 2
    assert "seed=-1: allowed: at least 0" in next((sweep / "0").glob("*.log")).read_text()
    assert "seven is unlucky" in (sweep / "sweep.md").read_text()


def test_a_sweep_whose_table_cannot_be_made_is_still_a_sweep(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scae.report", None)
    sweep = run("-m", "seed=1,2")
    assert [job(sweep / name)["status"] for name in "01"] == ["completed", "completed"]
    told = capsys.readouterr().err
    assert told.count("WARNING: no table of the sweep so far") == 2
    assert str(sweep / "sweep.md") in told


def test_a_job_of_a_sweep_runs_again_alone_from_its_argv(run: Run, tmp_path: Path) -> None:
    """What Lightning's ddp does for every device: the same job, in the same directory, and no second sweep."""
    hard = ["optimized_metric='a, \"b\" = c'", "sites.layers=[0,2],all", "+hydra.job.env_set.A=b c"]
    sweep = run("-m", "experiment=sweep_c", "connectivity.C=4", *hard)
    assert len(list(sweep.glob("*/seen.json"))) == 2
    for directory in (sweep / "0", sweep / "1"):
        seen = (directory / "seen.json").read_text()
        (directory / "seen.json").unlink()
        argv = json.loads((directory / "argv.json").read_text())
        assert argv[-1] == f"hydra.run.dir={directory}"
        assert argv[-2] == "hydra.mode=RUN"
        alone = command(config_path=str(ROOT / "conf"), config_name="train")(task)
        sys.argv[1:] = argv
        alone()
        assert (directory / "seen.json").read_text() == seen
        assert json.loads(seen)[0] == 'a, "b" = c'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_flags_that_name_the_config_are_replayed(run: Run) -> None:
    sweep = run("-m", "-cn", "train", "--config-dir", str(ROOT / "conf"), "seed=1")
    argv = json.loads((sweep / "0" / "argv.json").read_text())
    assert argv[:2] == ["--config-name=train", f"--config-dir={ROOT / 'conf'}"]


def test_a_chain_of_relaunches_is_stopped(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEPTH, "1")
    assert "starts jobs again" in refusal(run, capsys)
    monkeypatch.setenv("LOCAL_RANK", "1")
    run()  # a process that Lightning started
    monkeypatch.setenv(DEPTH, "2")
    assert "starts jobs again" in refusal(run, capsys)


def test_torchrun_needs_one_directory_and_one_job(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    run("seed=1")  # hydra.run.dir is given
    assert "torchrun starts the processes of one job" in refusal(run, capsys, "-m", "seed=1")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit):
        command(config_path=str(ROOT / "conf"), config_name="train")(task)()
    assert "hydra.run.dir=" in capsys.readouterr().err
    assert not (tmp_path / "multirun").exists()


def test_release_forgets_only_what_the_job_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.setenv(name, "0")
    release_job(frozenset({"LOCAL_RANK"}))  # started by somebody else, who needs them
    assert all(name in os.environ for name in RANK_VARIABLES)
    release_job(frozenset({"MASTER_PORT"}))
    assert [name for name in RANK_VARIABLES if name in os.environ] == ["MASTER_PORT"]


def test_the_processes_of_a_failed_job_are_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    done = threading.Event()
    observer = threading.Thread(target=done.wait, name="child-process-observer", daemon=True)
    vars(observer)["_child_processes"] = [child]
    observer.start()
    stop_processes()
    done.set()
    assert child.poll() is not None
    assert vars(observer)["_child_processes"] == []


def python(*arguments: str, cwd: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    start = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name not in (DEPTH, "HYDRA_FULL_ERROR")}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"  # nothing is said of threads, whatever else runs on this machine
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    return done, time.monotonic() - start


def test_train_refuses_before_it_imports_torch(tmp_path: Path) -> None:
    script = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv = ["train.py", "sae.k=abc"]
try:
    runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
finally:
    assert not {{"torch", "lightning", "transformers", "transformer_lens"}} & set(sys.modules), "imported too early"
"""
    done, seconds = python("-c", script, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "sae.k='abc'" in done.stderr
    assert seconds < 5


def test_help_and_cfg(tmp_path: Path) -> None:
    told, _ = python(str(ROOT / "train.py"), "--help", cwd=tmp_path)
    assert told.returncode == 0
    for part in (
        "connectivity: all, contribution",
        "optimizer@pretrain.optimizer=OPTION, optimizer@finetune.optimizer=OPTION",
        "python train.py -m connectivity.C=4,16,64,256",
        "optimized_metric",
    ):
        assert part in told.stdout
    told, _ = python(str(ROOT / "train.py"), "experiment=sweep_c", "--cfg", "job", cwd=tmp_path)
    assert told.returncode == 0
    assert OmegaConf.create(told.stdout).evaluation.twins is True
    assert not list(tmp_path.iterdir())
