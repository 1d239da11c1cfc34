"""The whole analysis of a suite: one pass over the text, then file by file what follows from it.

    tokens, vocabulary ─► parts of the text ─► codes of every pass and site ─► features of every site ─► analysis.json

What an interrupted analysis has finished, parts and files, is gone on with.
"""

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from scae.analysis.ablation import ablation
from scae.analysis.between import Known, Relations, on_connections, relations
from scae.analysis.contributions import EdgeList, constants, edge_list
from scae.analysis.database import Array, write_codes
from scae.analysis.definitions import DEFINITIONS
from scae.analysis.features import counts, density, of_activations, states
from scae.analysis.fidelity import fidelity
from scae.analysis.logits import logits
from scae.analysis.looking import Looking
from scae.analysis.statistics import Extent
from scae.attribution import Scores
from scae.core.whole_files import write, write_text
from scae.data import token_texts
from scae.report.analysis_files import ANALYSIS, CODES, FEATURES, FORMAT, TOKENS, VOCABULARY, AnalysisError, Tables
from scae.sites import Site, further

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """examples: the largest activations that are kept of a feature; neighbours: features nearest to it; edges:
    connections between two sites that are checked by changing the model, None: none; prompts: whose circuits are
    scored, None: none; seed: of what is drawn."""

    examples: int
    neighbours: int
    edges: int | None
    prompts: int | None
    seed: int


def analyze(looking: Looking, wanted: Wanted) -> dict[str, float]:
    """Write an analysis into the folder of `looking`; returns its numbers for `metrics.json`."""
    folder = looking.folder
    if not (folder / ANALYSIS).is_file():
        _Analysis(looking, wanted).write()
    looking.forget()
    return dict(numbers(json.loads((folder / ANALYSIS).read_text())))


def numbers(summary: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """What of analysis.json goes to `metrics.json`, but for numbers that are not defined.

    analysis/<pass>/<number>/<site>, analysis/ablation/<what>/<site or all>, analysis/agreement/<number>/<site>,
    analysis/faithfulness/<number>, analysis/scalar/log_area, analysis/explained/<score>, and all three of the random
    twin (..._random)
    """
    for note in summary["sites"]:
        for mode in summary["passes"]:
            for key, value in note.get(mode, {}).items():
                yield f"analysis/{mode}/{key}/{note['site']}", value
    for site, of_site in {"all": summary["ablation"]["all"], **summary["ablation"]["sites"]}.items():
        for kind, value in of_site.items():
            yield f"analysis/ablation/{kind}/{site}", value
    for twin in ("", "_random"):
        of_all = summary.get(f"faithfulness_by_distance{twin}", {}).get("all", {})
        for key in ("rank", "r2", "slope"):
            if of_all.get(key) is not None:
                yield f"analysis/faithfulness{twin}/{key}", of_all[key]
        area = summary.get("scalar", {}).get(twin.removeprefix("_") or "pruned", {}).get("log_area")
        if area is not None:
            yield f"analysis/scalar{twin}/log_area", area
        for key in Scores._fields:
            score = summary.get(f"explained{twin}", {}).get(key)
            if score is not None:
                yield f"analysis/explained{twin}/{key}", score
    for site, of_site in summary.get("agreement", {}).items():
        for key, value in of_site.items():
            if value is not None:
                yield f"analysis/agreement/{key}/{site}", value


class _Analysis:
    def __init__(self, looking: Looking, wanted: Wanted) -> None:
        self.looking, self.wanted, self.folder = looking, wanted, looking.folder
        self.lm, self.suite, self.text, self.passes = looking.lm, looking.suite, looking.text, looking.passes
        self.sites = self.suite.layout.sites

    def write(self) -> None:
        self.text.save(self.folder / TOKENS)
        texts = token_texts(self.lm.tokenizer, self.lm.paths.W_U.shape[1])
        write_text(self.folder / VOCABULARY, json.dumps(texts, ensure_ascii=False) + "\n")
        self.looking.run()
        for mode in self.passes:
            for site in self.suite.sites:
                self._write_codes(mode, site)
        known = self._known()
        of_each_other, sections = relations(known)
        edges = edge_list(self.suite, self.looking.sums) if self.looking.connected else None
        for number, site in enumerate(self.sites):
            self._write_features(number, site, edges, of_each_other)
        summary = self._summary() | sections | on_connections(known)
        write_text(self.folder / ANALYSIS, json.dumps(_plain(summary), indent=1) + "\n")

    def _codes(self, mode: str, site: Site) -> Path:
        return self.folder / CODES / mode / f"{site}.safetensors"

    def _features(self, site: Site) -> Path:
        return self.folder / FEATURES / f"{site}.safetensors"

    def _write_codes(self, mode: str, site: Site) -> None:
        path = self._codes(mode, site)
        if not _is_there(path):
            parts = partial(self.looking.parts_of, mode, site)
            write_codes(path, parts, n_tokens=self.text.n_tokens, n_features=self.suite[site].n_features)

    def _known(self) -> Known:
        return Known(
            suite=self.suite,
            codes={site: Tables(self._codes(self.passes[-1], site)) for site in self.suite.sites},
            live=self.text.live,
            context=self.text.context,
            traces=partial(self.text.traces, self.lm),
            connected=self.looking.connected,
            neighbours=self.wanted.neighbours,
            edges=self.wanted.edges,
            prompts=self.wanted.prompts,
            seed=self.wanted.seed,
        )

    def _write_features(self, number: int, site: Site, edges: EdgeList | None, of_each_other: Relations) -> None:
        path = self._features(site)
        if _is_there(path) or (site not in self.suite and edges is None):
            return
        size = self.suite.layout.size(site)
        found: dict[str, Array] = {}
        degrees = None
        if edges is not None:
            for side in ("inputs", "outputs"):
                of_side = edges.of(number, size, inputs=side == "inputs")
                found |= {side + key: values for key, values in of_side.items()}
            degrees = np.diff(found["inputs_crow"]) if self.suite.layout.upstream(site) else None
        if site in self.suite:
            codes = [Tables(self._codes(mode, site)) for mode in self.passes]
            extent = Extent(self.text.n_live, self.text.context)
            found |= of_activations(codes, extent, examples=self.wanted.examples, seed=self.wanted.seed)
            scale = float(self.looking.sums["final_scale"]) / self.text.n_live
            found |= logits(self.suite, site, scale)
            found["state"] = states(found["rate"], degrees)
            found |= constants(site, self.looking.sums) if edges is not None else {}
            found |= of_each_other.get(site, {})
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: np.ascontiguousarray(values) for name, values in found.items()}
        write(path, partial(save_file, tensors))

    def _summary(self) -> dict[str, Any]:
        sites = [self._of_site(site) for site in self.sites]
        summary: dict[str, Any] = {
            "format": FORMAT,
            "passes": list(self.passes),
            "n_tokens": self.text.n_tokens,
            "n_live": self.text.n_live,
            "context": self.text.context,
            "sites": sites,
            "ablation": ablation(self.looking.sums, self.suite.sites),
        }
        if len(self.passes) > 1:
            summary["agreement"] = {str(site): self._agreement(site) for site in self.suite.sites}
        return summary | {"definitions": DEFINITIONS}

    def _of_site(self, site: Site) -> dict[str, Any]:
        layer = min(site.layer, self.lm.paths.n_layers)  # the unembedding stands behind them all
        note: dict[str, Any] = {"site": str(site), "features": self.suite.layout.size(site), "kind": site.kind}
        note |= {"layer": layer, "transcoder": site.transcoder, "further": list(further(site, self.suite.sites))}
        if site not in self.suite:
            return note
        file = Tables(self._features(site))
        tables = {name: file[name] for name in ("rate", "state")}
        note["density"] = {}
        for number, mode in enumerate(self.passes):
            of_pass = fidelity(self.looking.sums, mode, site, self.looking.moments)
            note[mode] = of_pass | counts(tables, number)
            spread = density(tables["rate"][number], self.text.n_live)
            note["density"] |= {"edges": spread["edges"], mode: spread["counts"]}
        return note | {"out_of": self.suite.layout.size(site)}

    def _agreement(self, site: Site) -> dict[str, float | None]:
        file = Tables(self._features(site))
        return {"mean_correlation": _mean(file["agreement"]), "mean_jaccard": _mean(file["jaccard"])}


def _mean(values: Array) -> float | None:
    """Of those that are defined."""
    known = values[~np.isnan(values)].astype(np.float64)
    return float(known.mean()) if len(known) else None


def _is_there(path: Path) -> bool:
    """Whether an earlier command has written it whole."""
    if not path.is_file():
        return False
    try:
        Tables(path)
    except AnalysisError as error:
        log.warning("%s; it is written again", error)
        return False
    return True


def _plain(value: Any) -> Any:
    """As JSON knows it: a number that is not defined is null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, torch.Tensor | np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
