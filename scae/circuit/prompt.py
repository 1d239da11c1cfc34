"""The circuit of a prompt in a finished run."""

from pathlib import Path

from scae.attribution import MOST, PROBABILITY, demand_circuit, exact
from scae.circuit.graph import Circuit
from scae.circuit.record import About
from scae.circuit.words import Words, labels_of
from scae.experiment.opened import Run


def circuit(run: Run, prompt: str, *, logits: int = MOST, probability: float = PROBABILITY) -> Circuit:
    """The exact graph of the pruned pass on a prompt, as its window: with a BOS where the run had one.

    logits: at most so many of the most probable next tokens, and no more than it takes to reach `probability`. Raises
    ValueError where the run has no pruned suite, and where the prompt is empty or longer than the model's context.
    """
    if not prompt:
        raise ValueError("the prompt is empty: a circuit explains what a text makes the model predict")
    if logits < 1:
        raise ValueError(f"logits={logits}: at least one next token is to be explained")
    demand_circuit(run.suite)
    tokens, live = run.lm.encode(prompt)
    if tokens.shape[1] > run.lm.context:
        raise ValueError(f"the prompt has {tokens.shape[1]} tokens, the model takes at most {run.lm.context}")
    found = exact(run.suite, run.lm.trace(tokens, live), most=logits, probability=probability)
    words = Words(run.suite, labels_of(run.folder))
    about = About(
        kind="prompt",
        subject=prompt,
        run=run.folder.absolute().name,
        model=model_name(run),
        sites=tuple(map(str, run.suite.layout.sites)),
        n_layers=run.lm.paths.n_layers,
        absolute=found.absolute,
        relative=found.relative,
    )
    return Circuit.whole(about, words, tuple(map(words.token, tokens[0].tolist())), found.nodes, found.links)


def model_name(run: Run) -> str:
    """The model by its name on the hub, or by that of its folder."""
    model = run.config.model
    for key in ("name", "path"):
        if hasattr(model, key):
            return Path(str(getattr(model, key))).name if key == "path" else str(getattr(model, key))
    return model.kind
