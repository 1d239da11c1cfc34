"""What is accepted runs: settings at the ends of their range come to the end of an experiment, or end in one error."""

import json
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from scae.command import values
from scae.config import Config, ConfigError, parse
from scae.core.failures import ArtifactError, NonFiniteError

pytestmark = pytest.mark.slow
CONF = Path(__file__).parents[1] / "conf"
CLEAR = (ConfigError, ArtifactError, NonFiniteError)
MICRO = (
    *("experiment=smoke", "trainer=cpu", "trainer.progress=false", "data=text", "data.context=16"),
    *("model.d_model=8", "model.n_layers=1", "model.d_mlp=8", "model.vocab_size=270", "model.steps=2"),
    *("sae.expansion=2", "l0=2", "sae.bound.tokens=64", "connectivity.C=3", "connectivity.tokens=64"),
    *("pretrain.steps=2", "pretrain.batch_size=2", "finetune.steps=2", "finetune.batch_size=2"),
    *("finetune.regrow.every=1", "evaluation.tokens=64", "evaluation.batch_size=2", "analysis.edges=null"),
)
CASES = (
    *(
        "sae.k=1",
        "sae.k=16",
        "sae.expansion=1",
        "sae.expansion=50",
        "sae=vanilla loss.sparsity.weight=1e30",
        "sae.centred=false",
    ),
    *("sae.bound.margin=1", "sae.bound.margin=1e30", "sae.bound.margin=null", "sae.bound.tokens=1"),
    *(
        "loss.auxk.weight=1e30",
        "pretrain.loss.auxk.weight=1e30",
        "sae.auxk.k=1",
        "sae.auxk.k=1000000000000",
        "sae.auxk.dead_after=1",
    ),
    *("sae.expansion=null sae.features=1 sae.k=1", "sae=batchtopk sae.threshold_rate=1e-30"),
    *(
        "sae=batchtopk sae.threshold_rate=0.999999",
        "sae=vanilla loss.sparsity.weight=0 pretrain.loss.sparsity.weight=0",
        "connectivity.C=0",
    ),
    *("connectivity.C=1000000000000", "connectivity.C=1 connectivity.spread=1000000000000", "connectivity.spread=1"),
    *("connectivity.tokens=1", "connectivity.tokens=1000000000000", "connectivity.chunk_mb=1"),
    *("connectivity.chunk_mb=1000000000000", "connectivity.scope=per_site", "connectivity=random connectivity.C=0"),
    *("connectivity=all", "connectivity=none", "pretrain.steps=1 finetune.steps=1"),
    *("pretrain.batch_size=1 finetune.batch_size=1", "pretrain.batch_size=500", "pretrain.lr=1e-300"),
    *("pretrain.lr=1e30", "pretrain.lr=1e300", "finetune.lr=1e30", "pretrain.unit_norm=false"),
    *("pretrain.warmup=0 pretrain.decay=0", "pretrain.warmup=0 pretrain.decay=1"),
    *("finetune.warmup=0.999 finetune.decay=0", "finetune.regrow.every=1000000000000", "finetune.regrow.share=1e-30"),
    *("finetune.regrow.share=0.999999", "finetune.regrow.until=1", "finetune.regrow.until=1e-30"),
    *("finetune.regrow.batches=1000", "loss.recon.weight=1e30", "loss.recon.weight=1e-300"),
    *("loss.recon.kind=huber loss.recon.knee=1e-300", "loss.logit_kl.weight=1 loss.logit_kl.temperature=1e-300"),
    *("loss.logit_kl.weight=1 loss.logit_kl.temperature=1e300", "loss.block_mse.weight=1 loss.block_mse.layers=[0]"),
    *("loss@pretrain.loss=e2e", "data.context=4", "data.context=500", "data.context=1000000000000"),
    *("data.heldout=1e-30", "data.heldout=0.999999", "data.max_tokens=16", "data.max_tokens=1000000000000"),
    *("data.packing=document", "data.prepend_bos=false", "data.separator=none data.attend_across=false"),
    *("data.field=nothing", "data.field=''", "evaluation.tokens=1", "evaluation.tokens=1000000000000"),
    *("evaluation.batch_size=1", "evaluation.batch_size=1000000000000", "seed=4294967295", "trainer.accumulate=3"),
    *("trainer.clip=1e-300", "trainer.clip=1e300", "trainer.clip=null", "trainer.chunk_mb=1"),
    *("trainer.chunk_mb=1000000000000", "trainer.checkpoint_minutes=1e-30", "trainer.checkpoint_minutes=1000000"),
    *("trainer.worst_share_warning=1e-30", "logger.every=1000000000000", "sites.layers=[0] sites.kinds=[mlp]"),
    *("sites.embed=true", "sites.unembed=true", "sites.embed=true sites.unembed=true connectivity.C=0"),
    *("sites.embed=true sites.unembed=true connectivity=all", "sites.unembed=true connectivity.C=1000000000000"),
    *("sites.embed=true sites.unembed=true connectivity.scope=per_site", "sites.unembed=true sites.layers=[0]"),
    *("sites.kinds=[mlp,attn]", "optimized_metric=nothing", "optimized_metric=''", "model.n_heads=4"),
    *("model.vocab_size=100000", "model.lr=1e30", "model.batch_size=1", "model.dtype=bfloat16"),
    *("model.d_model=2 model.n_heads=1 sae.k=1", "model.d_mlp=1", "model.steps=1", "stages=[select]"),
    *("model.warmup=0 model.decay=1", "model.beta1=0 model.beta2=0", "model.beta2=0.9999999"),
    *(
        "model.weight_decay=1e30",
        "pretrain.start.batches=1",
        "pretrain.start.batches=1000000000000",
        "pretrain.start.furthest=0",
    ),
    *("pretrain.start.furthest=0.999999", "evaluation.first_look=1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text, and the artifacts that all cases share."""
    folder = tmp_path_factory.mktemp("surprises")
    source = random.Random(0)
    with (folder / "text.jsonl").open("w") as file:
        for _ in range(60):
            text = " ".join(source.choice(["ba", "ko", "ri", "ta"]) + source.choice("nls") for _ in range(30))
            file.write(json.dumps({"text": text}) + "\n")
    return folder


@pytest.fixture(scope="module")
def composing() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def configure(folder: Path, output: Path, case: str) -> Config:
    places = (f"data.path={folder / 'text.jsonl'}", f"paths.artifacts={folder / 'artifacts'}", f"paths.output={output}")
    return parse(values(compose("train", overrides=[*MICRO, *places, *case.split()])))


@contextmanager
def one_clear_error() -> Iterator[None]:
    """Nothing but an error that the command prints without a traceback, and that says what was found."""
    try:
        yield
    except CLEAR as error:
        told = str(error)
    else:
        return
    assert 20 < len(told) < 2_000, told


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("composing")
def test_what_is_accepted_runs_or_ends_in_one_clear_error(folder: Path, tmp_path: Path, case: str) -> None:
    from scae.experiment import run

    with one_clear_error():
        run(configure(folder, tmp_path, case))
        written = tmp_path / "metrics.json"
        metrics = json.loads(written.read_text()) if written.exists() else {}
        wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
        assert not wrong, f"the experiment came to its end with {wrong}"
