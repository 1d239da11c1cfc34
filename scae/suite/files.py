"""A suite on disk: `suite.safetensors`, `suite.json`, and `connections.safetensors` where it has been pruned."""

import json
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from scae.config import AnySae
from scae.connections import Connections
from scae.lm import LanguageModel
from scae.sites import Site
from scae.suite.suite import Suite

FORMAT = 4


def save(suite: Suite, sae: AnySae, folder: Path) -> None:
    """Write the dictionaries, and their connections unless the suite has all of them."""
    tensors = {
        f"{site}.{name}": value.detach().cpu().contiguous()
        for site in suite.sites
        for name, value in suite[site].state_dict().items()
    }
    save_file(tensors, folder / "suite.safetensors")
    note = {"format": FORMAT, "sae": sae.model_dump(), "sites": [str(site) for site in suite.sites]}
    note["threshold_pass"] = suite.threshold_pass
    (folder / "suite.json").write_text(json.dumps(note, indent=2) + "\n")
    if not suite.connections.is_complete:
        suite.connections.save(folder / "connections.safetensors")


def load(folder: Path, lm: LanguageModel) -> Suite:
    """Read what `save` wrote; raises ValueError naming the file that is missing or does not fit."""
    for name in ("suite.json", "suite.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no suite: {name} is missing")
    suite = _described(folder / "suite.json", lm)
    try:
        tensors = load_file(folder / "suite.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{folder / 'suite.safetensors'} is damaged: {error}") from error
    for site in suite.sites:
        own = {name.removeprefix(f"{site}."): t for name, t in tensors.items() if name.startswith(f"{site}.")}
        try:
            suite[site].load_state_dict(own, strict=True)
        except RuntimeError as error:
            raise ValueError(f"{folder / 'suite.safetensors'}: {site} does not fit suite.json: {error}") from error
    if (folder / "connections.safetensors").is_file():
        connections = Connections.load(folder / "connections.safetensors")
        try:
            suite.connect(connections)
        except ValueError as error:
            raise ValueError(f"{folder / 'connections.safetensors'} does not fit suite.json: {error}") from error
    return suite.to(lm.device)


def _described(file: Path, lm: LanguageModel) -> Suite:
    """The suite that a `suite.json` describes, its weights still those of a new one."""
    try:
        note = json.loads(file.read_text())
        if note["format"] != FORMAT:
            raise ValueError(f"format {note['format']}, this version reads {FORMAT}")
        sae: AnySae = TypeAdapter(AnySae).validate_python(note["sae"])
        suite = Suite.from_config(sae, [Site.parse(site) for site in note["sites"]], lm)
        suite.threshold_pass = note["threshold_pass"]
    except Exception as error:  # whatever a damaged file breaks on, the reader of the message needs its name
        raise ValueError(f"{file} is no description of a suite: {error}") from error
    return suite
