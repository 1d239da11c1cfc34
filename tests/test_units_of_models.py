"""I7 on real models, by the command itself: a model in other units gives the same experiment, to the last bit."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from experiments import configure, execute

ROOT = Path(__file__).parents[1]
DATA = ROOT / "../shared/data"
SMALL = (
    "experiment=smoke",
    "trainer=cpu",
    "trainer.progress=false",
    "logger.every=1",
    "sae.features=64",
    "sae.expansion=null",
    "sae.k=4",
    "data.max_tokens=30000",
    "connectivity.C=8",
    "connectivity.tokens=1024",
    "pretrain.steps=8",
    "sae.bound.tokens=2048",
    "finetune.refit.tokens=512",
    "finetune.steps=6",
    "finetune.regrow.every=2",
    "finetune.revive.every=2",
    "finetune.revive.after=64",
    "evaluation.tokens=1024",
    "evaluation.batch_size=8",
    "analysis.edges=2",
    "analysis.prompts=1",
)


def in_other_units(source: Path, folder: Path, factor: float) -> Path:
    """A Llama directory whose residual stream is multiplied by `factor`: the same function."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(source)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("embed_tokens.weight", "o_proj.weight", "down_proj.weight")):
                parameter.mul_(factor)
            if tied and name == "model.norm.weight":
                parameter.div_(factor)
    model.config.rms_norm_eps *= factor**2
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def metrics_of(model: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    config = configure(
        *SMALL,
        "model=local",
        f"model.path={model}",
        "data=text",
        f"data.path={DATA / 'text/tinystories.jsonl'}",
        f"paths.artifacts={folder / 'artifacts'}",
        f"paths.output={folder / 'run'}",
        *overrides,
    )
    metrics = execute(config)
    assert json.loads((folder / "run" / "metrics.json").read_text()) == metrics
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sae"), [("stories260K", "topk"), ("babyllama105", "batchtopk")])
def test_a_real_model_in_other_units_is_the_same_experiment(name: str, sae: str, tmp_path: Path) -> None:
    source = DATA / name
    if not source.is_dir():
        pytest.skip(f"{source} is not here: real models are no part of the project")
    other = in_other_units(source, tmp_path / "model", 2.0**5)
    ours, theirs = (metrics_of(model, tmp_path / part, f"sae={sae}") for part, model in (("a", source), ("b", other)))
    assert ours == theirs
    assert ours["pruned/fvu_mean"] > 0
    assert ours["connectivity/regrown"] > 0
    (log,) = (tmp_path / "a" / "artifacts").glob("finetune-*/logs/metrics.csv")
    let_in = [float(row["train/revived"] or 0) for row in csv.DictReader(log.read_text().splitlines())]
    assert sum(let_in) > 0
