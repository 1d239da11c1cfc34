"""What stands between packed documents where `data.separator=auto` leaves it open: what the model predicts text best
with, measured around the borders of training documents.

Every later artifact is named by what was chosen, and not by how. So the choice comes before the plan, and is an
artifact of its own: a command that is repeated reads it and opens no model.
"""

import logging
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from scae.artifacts import Artifact, is_first_process
from scae.config import Config
from scae.data import corpus_fingerprint, training_documents
from scae.experiment.plan import Plan

log = logging.getLogger(__name__)
BORDERS, WINDOW = 64, 128  # up to 8,192 tokens for each candidate; more text around a border says nothing about it


def settle(config: Config) -> Config:
    """The configuration with the separator that `auto` stands for."""
    data = config.data
    if data.separator != "auto":
        return config
    choice = choice_for(config)
    if is_first_process() and choice.is_complete and (damage := choice.damage()):
        log.warning("%s: measured again", damage)
        choice.discard()
    choice.build(partial(_measure, config))
    facts = choice.facts()
    log.info("data.separator: %s (%s)", facts["separator"], _why(facts))
    return config.model_copy(update={"data": data.model_copy(update={"separator": facts["separator"]})})


def choice_for(config: Config) -> Artifact:
    """Where the choice for this model and this text is kept."""
    made_from = {
        "model": Plan(config).model_identity,
        "data": config.data.model_dump(include={"prepend_bos", "attend_across", "heldout"}),
        "corpus": corpus_fingerprint(config.data),
        "borders": BORDERS,
        "window": WINDOW,
    }
    return Artifact(Path(config.paths.artifacts), "separator", made_from)


def _measure(config: Config, _folder: Path) -> dict[str, Any]:
    """The candidate with the lowest cross-entropy; of equals the simplest."""
    from scae.data.packing import separators
    from scae.evaluation.borders import ce_at_borders
    from scae.experiment.workshop import Workshop

    data, lm = config.data, Workshop(config, Plan(config)).lm
    candidates = separators(lm.tokenizer)
    texts = (
        lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in training_documents(data)
    )
    documents = list(islice((tokens for tokens in texts if len(tokens) > 1), BORDERS + 1))
    if len(candidates) == 1 or len(documents) < 2:
        return {"separator": "none", "borders": len(documents) - 1, "ce": {}}
    ce = {
        name: ce_at_borders(
            lm,
            documents,
            token,
            context=min(lm.context, WINDOW),
            attend_across=data.attend_across,
            batch_size=config.evaluation.batch_size,
        )
        for name, token in candidates.items()
    }
    return {"separator": min(ce, key=ce.__getitem__), "borders": len(documents) - 1, "ce": ce}


def _why(facts: dict[str, Any]) -> str:
    if facts["borders"] < 1:
        return "one document of training text, nothing to separate"
    if not facts["ce"]:
        return "the tokenizer has neither BOS nor EOS"
    best_first = sorted(facts["ce"].items(), key=lambda item: item[1])
    measured = ", ".join(f"{name} {ce:.3f}" for name, ce in best_first)
    return f"CE around {facts['borders']} borders of training documents: {measured}"
