"""Open a finished run in a notebook."""

import json
from pathlib import Path

from scae.connections import Connections
from scae.lm import LanguageModel, open_model
from scae.suite import Suite
from scae.suite.files import load


def load_suite(run: str | Path, *, finetuned: bool = True) -> tuple[Suite, LanguageModel]:
    """The pruned suite of a run directory, ready for `suite(lm.trace(text), mode="pruned")`, and its model.

    finetuned: as it is after finetuning; False: the pretrained suite with the connections that were selected,
    whose thresholds (BatchTopK) belong to the pass of pretraining: `scae.suite.thresholds.learn` sets them for another.
    """
    folder = Path(run)
    if not (folder / "run.json").is_file():
        raise ValueError(f"{run} is no finished run: it holds no run.json")
    note = json.loads((folder / "run.json").read_text())
    model = note["model"]
    name = folder / model["path"] if "path" in model else model["name"]
    lm = open_model(name, dtype=model["dtype"], prepend_bos=model["prepend_bos"], revision=model["revision"])
    suite = load(folder / note["stages"]["finetune" if finetuned else "pretrain"], lm)
    if not finetuned:
        suite.connect(Connections.load(folder / note["stages"]["select"] / "connections.safetensors"))
    return suite.eval(), lm
