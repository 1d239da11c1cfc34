"""Training on a store: resumed bit for bit, the worst token named, two processes like one."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_script, write_script
from test_store import CONTEXT, some_windows

from scae.activations import Drawn, Store, StoredModule, Writer
from scae.artifacts.checkpoints import CHECKPOINT
from scae.config import AdamOptimizer, Logger, TrainerConfig, Training
from scae.lm import LanguageModel
from scae.objectives import Objective
from scae.objectives.terms import Recon
from scae.suite import Suite
from scae.training import Place, SuiteTraining, WorstTokens, fit

Make = Callable[..., Any]
STEPS, BATCH = 8, 4


@pytest.fixture(scope="module")
def gpt2(build_tiny: Make) -> LanguageModel:
    return build_tiny("gpt2").lm


@pytest.fixture(scope="module")
def folder(gpt2: LanguageModel, all_sites: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    drawn = Drawn.of(some_windows(), torch.arange(14))
    Writer(lm=gpt2, sites=all_sites(gpt2), drawn=drawn, dtype=torch.float64, autocast=None, batch_size=5, seed=3).write(
        folder
    )
    return folder


def run(suite: Suite, store: Path, out: Path, *, steps: int = STEPS, callbacks: Any = ()) -> None:
    out.mkdir(exist_ok=True, parents=True)
    values: dict[str, Any] = {"lr": 0.01, "lr_width": None, "lr_features": None, "lr_sites": None, "unit_norm": True}
    values |= {"warmup": 0.1, "decay": 0.0, "decay_shape": "linear", "decay_to": 0.0, "stagger": None}
    adam = AdamOptimizer(kind="adam", lr_factor=1.0, beta1=0.9, beta2=0.999, eps=1e-8)
    config = Training(steps=steps, batch_size=BATCH, optimizer=adam, **values)
    objective = Objective([Recon(weight=1.0, kind="fvu", knee=4.0)])
    trainer = TrainerConfig(
        accelerator="cpu",
        devices=1,
        num_nodes=1,
        strategy="auto",
        precision="32-true",
        accumulate=1,
        clip=1.0,
        chunk_mb=32,
        checkpoint_minutes=1e-6,
        checkpoint_steps=None,
        keep_checkpoints="all",
        worst_share_warning=0.01,
        progress=False,
    )
    fit(
        SuiteTraining(suite, objective, config, mode="plain", clip=1.0, identity={"artifact": "pretrain-1"}),
        StoredModule(store=Store(store), batch_size=BATCH, steps=STEPS, seed=5),
        steps=steps,
        tokens_per_step=40,
        trainer=trainer,
        logger=Logger(kind="csv", every=2, project=None, mode=None),
        place=Place("pretrain", out, "group", "pretrain"),
        seed=0,
        callbacks=callbacks,
    )


def test_a_resumed_run_is_the_uninterrupted_one(
    gpt2: LanguageModel, folder: Path, make_suite: Make, tmp_path: Path
) -> None:
    whole, resumed = make_suite(gpt2, activation="batchtopk"), make_suite(gpt2, activation="batchtopk")
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    run(whole, folder, tmp_path / "whole")
    run(make_suite(gpt2, activation="batchtopk"), folder, tmp_path / "broken", steps=3)
    assert (tmp_path / "broken" / CHECKPOINT).is_file()
    run(resumed, folder, tmp_path / "broken")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
        assert not (name.endswith("encoder.W") and torch.equal(value, start[name]))


def test_the_worst_token_is_named_where_it_stood(
    gpt2: LanguageModel, folder: Path, make_suite: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(make_suite(gpt2), folder, tmp_path, callbacks=[WorstTokens("pretrain", 0.01)])
    (told,) = [message for message in caplog.messages if "of training window" in message]
    token, position, window = map(
        int,
        re.search(r"token (\d+) .*position (\d+) of training window (\d+)", told).groups(),  # type: ignore[union-attr]
    )
    assert some_windows().tokens[window, position] == token
    assert 0 < position < CONTEXT


SCRIPT = """
store = Path({store!r})
import torch

from scae.activations import Store, StoredModule
from scae.config import AuxK, Logger, TrainerConfig
from scae.objectives import Objective
from scae.objectives import terms
from scae.training import Place, SuiteTraining, fit

config = tiny.neutral_training(steps=6, batch_size=4, lr=0.01, warmup=0.1, decay=0.3)
trainer = TrainerConfig(accelerator="cpu", devices=devices, num_nodes=1, strategy="ddp" if devices > 1 else "auto",
                        precision="32-true", accumulate=1, clip=0.1, chunk_mb=32,
                        checkpoint_minutes=60.0, checkpoint_steps=None, keep_checkpoints="all",
                        worst_share_warning=0.99, progress=False)
for activation in ("relu", "topk", "batchtopk"):
    suite = tiny.make_suite.__wrapped__()(lm, activation=activation, n_features=20, auxk=AuxK(k=3, dead_after=50))
    suite[suite.sites[0]].encoder.b.data[:2] = -30.0
    folder = out / activation
    folder.mkdir(parents=True, exist_ok=True)
    parts = [terms.Recon(weight=1.0, kind="fvu", knee=0.5), terms.Sparsity(weight=0.01), terms.AuxK(weight=0.1)]
    objective = Objective(parts, offers=("penalty", "revived") if activation == "relu" else ("revived",))
    module = SuiteTraining(suite, objective, config, mode="plain", clip=0.1, identity={{"artifact": "x"}})
    fit(module, StoredModule(store=Store(store), batch_size=4, steps=6, seed=5), steps=6, tokens_per_step=36,
        trainer=trainer, logger=Logger(kind="csv", every=1, project=None, mode=None),
        place=Place("pretrain", folder, "group", "pretrain"), seed=0)
    torch.save(suite.state_dict(), folder / f"state-{{os.environ.get('LOCAL_RANK', '0')}}.pt")
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(folder: Path, tmp_path: Path) -> None:
    """I8, over the border of two epochs: 6 micro-steps of more than a sixth of the store."""
    script = write_script(tmp_path, SCRIPT, store=str(folder))
    assert 6 * 4 * Store(folder).tokens_a_window > len(Store(folder))
    for devices, name in ((1, "one"), (2, "two")):
        run_script(script, devices, tmp_path / name)
    for activation in ("relu", "topk", "batchtopk"):
        one = torch.load(tmp_path / "one" / activation / "state-0.pt", weights_only=True)
        two = [torch.load(tmp_path / "two" / activation / f"state-{rank}.pt", weights_only=True) for rank in (0, 1)]
        assert max(int(value.max()) for name, value in one.items() if name.endswith("tokens_since_fired")) > 50
        for name, value in one.items():
            assert torch.equal(two[0][name], two[1][name]), name
            torch.testing.assert_close(two[0][name], value, rtol=1e-10, atol=1e-12, msg=f"{activation} {name}")
