"""Train the tokenizer and the embedded model on the training documents."""

from pathlib import Path
from typing import Any

from scae.config import TinyModel
from scae.data import WindowModule, train_and_heldout, train_tokenizer, training_documents
from scae.experiment.workshop import Workshop
from scae.lm.tiny import TinyTraining, build_tiny, save_tiny
from scae.training import fit


def make(workshop: Workshop, folder: Path) -> dict[str, Any]:
    config, artifact = workshop.config, workshop.plan.model
    model = config.model
    assert isinstance(model, TinyModel)
    assert artifact is not None
    tokenizer = train_tokenizer(training_documents(config.data), model.vocab_size)
    train, _ = train_and_heldout(config.data, tokenizer, workshop.plan.root)
    data = WindowModule(train=train, batch_size=model.batch_size, steps=model.steps, seed=config.seed)
    network = build_tiny(model, tokenizer, context=config.data.context)
    alone = {"strategy": "auto", "devices": 1, "num_nodes": 1, "accumulate": 1, "precision": "32-true"}
    tokens = model.batch_size * config.data.context
    fit(
        TinyTraining(network, model, identity={"artifact": artifact.name}),
        data,
        steps=model.steps,
        tokens_per_step=tokens,
        trainer=config.trainer.model_copy(update=alone),
        logger=config.logger,
        place=workshop.place("model", folder, section="model"),
        seed=config.seed,
    )
    save_tiny(network, tokenizer, folder)
    return {"tokens": model.steps * tokens}
