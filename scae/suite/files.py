"""A suite on disk: `suite.safetensors`, `suite.json`, and `connections.safetensors` where it has been pruned.

`suite.json` holds what is needed to make dictionaries that the weights fit into, and nothing of how they were trained:

    {"format": 5, "threshold_pass": "pruned", "ends": [],
     "dictionaries": {"0.attn": {"type": "topk", "k": 16,
                                 "shape": {"n_features": 512, "d_in": 64, "d_out": 64, "transcoder": false}}, ...}}

A setting that a type gets later has a default there, the value that older dictionaries had. A crosslayer transcoder has
the layers that it also writes to in its shape, `"further": [1, 2, 3]`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from scae.connections import Connections
from scae.core.typing import Tensor
from scae.dictionaries import Dictionary, Shape, create
from scae.lm import LanguageModel
from scae.sites import SOURCE, Site
from scae.suite.assembly import Mode
from scae.suite.suite import Suite

FORMAT = 5


def save(suite: Suite, folder: Path) -> None:
    """Write the dictionaries, and their connections unless the suite has all of them."""
    tensors = {
        f"{site}.{name}": value.detach().cpu().contiguous()
        for site in suite.sites
        for name, value in suite[site].state_dict().items()
    }
    if suite.source is not None:
        tensors |= {f"{SOURCE}.{name}": value.cpu() for name, value in suite.source.state_dict().items()}
    save_file(tensors, folder / "suite.safetensors")
    dictionaries = {str(site): suite[site].spec | {"shape": _sizes(suite[site].shape)} for site in suite.sites}
    ends = [str(site) for site in suite.layout.sites if site not in suite]
    note = {"format": FORMAT, "threshold_pass": suite.threshold_pass, "ends": ends, "dictionaries": dictionaries}
    (folder / "suite.json").write_text(json.dumps(note, indent=2) + "\n")
    if not suite.connections.is_complete:
        suite.connections.save(folder / "connections.safetensors")


def load(folder: Path, lm: LanguageModel) -> Suite:
    """Read what `save` wrote; raises ValueError naming the file that is missing or does not fit."""
    stored = _read(folder, lm)
    try:
        suite = Suite(stored.dictionaries, lm, ends=stored.ends)
    except ValueError as error:
        raise ValueError(f"{folder / 'suite.json'} is no description of a suite: {error}") from error
    suite.threshold_pass = stored.threshold_pass
    if suite.source is not None:
        _fill(suite.source, stored.tensors, SOURCE, folder)
    if (folder / "connections.safetensors").is_file():
        connections = Connections.load(folder / "connections.safetensors")
        try:
            suite.connect(connections)
        except ValueError as error:
            raise ValueError(f"{folder / 'connections.safetensors'} does not fit suite.json: {error}") from error
    return suite.to(lm.device)


def _sizes(shape: Shape) -> dict[str, Any]:
    """What of a shape is not as in most dictionaries."""
    return {key: value for key, value in asdict(shape).items() if value != ()}


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists alone."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def load_dictionaries(folder: Path) -> tuple[dict[Site, Dictionary], Mode | None]:
    """The dictionaries of a suite without its model, and the pass that their thresholds were learned in; raises
    ValueError as `load` does."""
    stored = _read(folder, None)
    return stored.dictionaries, stored.threshold_pass


class _Stored(NamedTuple):
    """What lies in a folder: dictionaries with their weights, and all tensors by name."""

    dictionaries: dict[Site, Dictionary]
    ends: list[Site]
    threshold_pass: Mode | None
    tensors: dict[str, Tensor]


def _read(folder: Path, lm: LanguageModel | None) -> _Stored:
    """lm: the model that the suite is meant for; None: any."""
    for name in ("suite.json", "suite.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no suite: {name} is missing")
    dictionaries, ends, threshold_pass = _described(folder / "suite.json", lm)
    try:
        tensors = load_file(folder / "suite.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{folder / 'suite.safetensors'} is damaged: {error}") from error
    for site, own in dictionaries.items():
        _fill(own, tensors, site, folder)
    return _Stored(dictionaries, ends, threshold_pass, tensors)


def _fill(part: nn.Module, tensors: dict[str, Tensor], site: Site, folder: Path) -> None:
    """Give a part of a suite the weights that are stored under the name of its site."""
    own = {name.removeprefix(f"{site}."): t for name, t in tensors.items() if name.startswith(f"{site}.")}
    try:
        part.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{folder / 'suite.safetensors'}: {site} does not fit suite.json: {error}") from error


def _described(file: Path, lm: LanguageModel | None) -> tuple[dict[Site, Dictionary], list[Site], Mode | None]:
    """The dictionaries that a `suite.json` describes, their weights still those of new ones; the ends, and the pass."""
    try:
        note = json.loads(file.read_text())
        if note["format"] != FORMAT:
            raise ValueError(f"format {note['format']}, this version reads {FORMAT}")
        dictionaries = {}
        for name, one in note["dictionaries"].items():
            shape, site = Shape(**_tuples(one.pop("shape"))), Site.parse(name)
            if lm is not None:
                _check_width(site, shape, lm)
            dictionaries[site] = create(shape, **one)
        if (learned_in := note["threshold_pass"]) not in (None, *get_args(Mode)):
            raise ValueError(f"threshold_pass is {learned_in!r}, allowed: null, {', '.join(get_args(Mode))}")
        return dictionaries, list(map(Site.parse, note["ends"])), learned_in
    except Exception as error:  # whatever a damaged file breaks on, the reader of the message needs its name
        raise ValueError(f"{file} is no description of a suite: {error}") from error


def _check_width(site: Site, shape: Shape, lm: LanguageModel) -> None:
    width = lm.watch(site.module)
    if {shape.d_in, shape.d_out} != {width}:
        raise ValueError(
            f"{site} reads and writes {shape.d_in} and {shape.d_out} numbers a token, the model has {width} there"
        )
