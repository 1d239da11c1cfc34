"""Write dictionaries of a run, or of one of its artifacts, as files of another library."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scae.config import ConfigError
from scae.interop.formats import FORMATS
from scae.interop.found import find
from scae.interop.linear import Linear
from scae.sites import Site
from scae.suite.files import load_dictionaries

log = logging.getLogger(__name__)


def export(
    source: str | Path,
    out: str | Path,
    *,
    format: str,
    sites: Iterable[Site | str] | None = None,
    stages: tuple[str, ...] = ("finetune", "pretrain"),
) -> dict[Site, Path]:
    """The folders that were written: one site goes into `out` itself, several into a folder each, named by site.

    source: a run directory or the folder of an artifact; sites: None: all; stages: of a run, whose suite: the first of
    these that it has. Raises ValueError where there is no such site, or where the format has no word for it.
    """
    found = find(source, stages=stages)
    if not found.is_suite:
        raise ConfigError(f"{source}: already the files of another library ({found.format})")
    folder = found.folders[""]
    stored, _ = load_dictionaries(folder)
    wanted = list(stored) if sites is None else [Site.parse(site) if isinstance(site, str) else site for site in sites]
    if absent := [str(site) for site in wanted if site not in stored]:
        raise ConfigError(f"{folder} has no {', '.join(absent)}; it has {', '.join(map(str, stored))}")
    bounded = [str(site) for site in wanted if bool(stored[site].ceiling.isfinite().any())]
    if bounded:
        log.warning(
            "no other format has ceilings of activations (sae.bound), they are left out: %s", ", ".join(bounded)
        )
    known, written = _known(Path(source), folder), {}
    for site in wanted:
        place = Path(out) if sites is not None and len(wanted) == 1 else Path(out) / str(site)
        try:
            one = Linear.of(stored[site])
            place.mkdir(parents=True, exist_ok=True)
            FORMATS[format].write(one, place, _hooks(site) | known)
        except ValueError as error:
            raise ConfigError(f"{site} of {folder}: {error}") from error
        written[site] = place
        log.info("%s: %s", site, place)
    return written


def _hooks(site: Site) -> dict[str, Any]:
    """Where a dictionary stands, in the names of TransformerLens, of a model whose normalisations are folded."""
    module = site.module
    if not site.transcoder:
        return {"site": str(site), "hook_name": module.hook_out}
    norm = {"attn": "ln1", "mlp": "ln2"}[module.kind]
    read = f"blocks.{module.layer}.{norm}.hook_normalized"
    return {"site": str(site), "hook_name": read, "hook_name_out": module.hook_out, "hook_head_index_out": None}


def _known(source: Path, folder: Path) -> dict[str, Any]:
    """What the files beside say of the model and the text."""
    folded = {"fold_ln": True, "center_writing_weights": True, "fold_value_biases": True}
    found: dict[str, Any] = {"hook_head_index": None, "model_from_pretrained_kwargs": folded}
    if (context := _context(folder)) is not None:
        found["context_size"] = context
    if (source / "run.json").is_file():
        model = json.loads((source / "run.json").read_text())["model"]
        found |= {
            "model_name": model.get("name") or Path(model["path"]).name,
            "prepend_bos": model["prepend_bos"] is not False,
        }
    return found


def _context(folder: Path) -> int | None:
    """Of the windows that the suite of an artifact was trained on: its own, or of what it was made from."""
    if not (folder / "artifact.json").is_file():
        return None
    note = json.loads((folder / "artifact.json").read_text())
    data = note.get("made_from", {}).get("data", {})
    if "context" in data:
        return data["context"]
    found = (_context(folder.parent / name) for name in note.get("upstream", []))
    return next((context for context in found if context is not None), None)
