"""Every process has its own device from the start, and fits run where the other stages do."""

from pathlib import Path

import pytest
import torch
from experiments import configure

from scae.config import ConfigError, parse
from scae.training.devices import accelerator, check_devices, device

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_each_process_of_a_machine_has_its_own_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv(name, "3")
    assert device("auto") == device("cuda") == torch.device("cuda", 3)
    assert device("cpu") == torch.device("cpu")


def test_a_mac_fits_where_it_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert accelerator("auto") == "cpu"
    assert device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    "override", ["trainer.accelerator=mps", "trainer.strategy=ddp_fork", "trainer.strategy=ddp_spawn"]
)
def test_what_cannot_work_is_refused_in_the_config(override: str) -> None:
    from hydra import compose, initialize_config_dir

    from scae.command import values

    key, _, value = override.partition("=")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", overrides=[override, "paths.output=run"])
    with pytest.raises(ConfigError, match=f"{key}='{value}': allowed: 'auto'"):
        parse(values(composed))


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as refused:
        check_devices(configure("paths.output=out", *overrides).trainer)
    return str(refused.value)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = refusal("trainer=gpu")
    assert "trainer.accelerator=cuda: torch finds no GPU" in told
    assert "allowed here: auto, cpu" in told
    check_devices(configure("paths.output=out", "trainer=ddp").trainer)


@pytest.mark.parametrize("accelerator", ["cuda", "auto"])
@pytest.mark.usefixtures("gpus")
def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch, accelerator: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = (f"trainer.accelerator={accelerator}", "trainer.devices=4")
    assert "trainer.devices=4: torch finds 2 GPUs on this machine; allowed here: 1 to 2" in refusal(*chosen)
    check_devices(configure("paths.output=out", chosen[0], "trainer.devices=2").trainer)


def test_nothing_is_written_before_the_devices_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from scae.experiment import run

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    config = configure("trainer=gpu", f"paths.output={tmp_path}/run", f"paths.artifacts={tmp_path}/artifacts")
    with pytest.raises(ConfigError, match="cuda"):
        run(config)
    assert not list(tmp_path.iterdir())
