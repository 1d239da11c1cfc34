"""What the live model loses when a site is taken from it, one alone and all together, in nats a token.

    zero             what its module writes, or what stands at its point, is 0
    mean             it is the mean over the text
    reconstruction   one alone: the reconstruction of the plain pass; all: of the spliced pass, in which each dictionary
                     reads what the others make of the model

Positions that hold no text keep the model's own values; attention and normalisations stay live.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from scae.analysis.sums import Summing, Sums
from scae.core.typing import Float, Int, Stream, Tensor
from scae.evaluation import Arm, Subject
from scae.evaluation.ablations import spliced_stream
from scae.evaluation.compared import LOGITS
from scae.lm import LinearPaths, Module, Trace
from scae.sites import Site
from scae.suite import Mode, SuiteOutput

ALL, CLEAN = "all", "clean"
SPLICED: Mode = "spliced"
KINDS = ("zero", "mean", "reconstruction")


class Ablation(Summing):
    """Beside an arm "plain" and an arm "spliced" of the same sites. `ablation/<what>`: sums of the cross-entropy;
    `ablation/scored`, `final_scale`: at how many positions, and the sum of the final normalisation's scale at live
    ones."""

    def __init__(self, means: Mapping[Site, Float[Tensor, " d_out"]]) -> None:
        super().__init__()
        self._means = means
        self._rebuilt: dict[Site, Stream] = {}
        self._spliced: Stream | None = None

    def begin(self, subject: Subject) -> None:
        self._lm = subject.lm

    def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
        if arm.name == "plain":
            self._rebuilt = out.reconstructions
        elif arm.name == SPLICED:
            self._spliced = out.residual()

    def batch(self, trace: Trace) -> None:
        paths = self._lm.paths
        clean = trace.stream(paths.modules)
        self.add("final_scale", paths.scale(clean[trace.live]).sum())
        self.add("ablation/scored", trace.scored.sum())
        self._score(trace, CLEAN, clean)
        means = {site.module: mean.to(trace.embed.dtype) for site, mean in self._means.items()}
        zeros = {module: torch.zeros_like(mean) for module, mean in means.items()}
        assert self._spliced is not None
        self._score(trace, f"{ALL}/reconstruction", self._spliced)
        self._live(trace, f"{ALL}/zero", zeros)
        self._live(trace, f"{ALL}/mean", means)
        for site, rebuilt in self._rebuilt.items():
            for kind, value in zip(KINDS, (zeros[site.module], means[site.module], rebuilt), strict=True):
                self._live(trace, f"{site}/{kind}", {site.module: value})
        self._rebuilt, self._spliced = {}, None

    def _live(self, trace: Trace, name: str, values: dict[Module, Tensor]) -> None:
        self._score(trace, name, spliced_stream(self._lm, trace, values))

    def _score(self, trace: Trace, name: str, stream: Stream) -> None:
        self.add(f"ablation/{name}", _summed_ce(self._lm.paths, trace.at_scored(stream), trace.targets))


def _summed_ce(
    paths: LinearPaths, stream: Float[Tensor, "scored d_model"], targets: Int[Tensor, " scored"]
) -> Float[Tensor, ""]:
    total = torch.zeros((), dtype=torch.float64, device=stream.device)
    for part in torch.arange(len(targets), device=stream.device).split(max(1, LOGITS // paths.W_U.shape[1])):
        total += F.cross_entropy(paths.logits(stream[part]), targets[part], reduction="none").double().sum()
    return total


def ablation(sums: Sums, sites: tuple[Site, ...]) -> dict[str, object]:
    """The section of analysis.json: the model's own cross-entropy, and by how much each ablation is above it."""
    scored = float(sums["ablation/scored"])
    clean = float(sums[f"ablation/{CLEAN}"]) / scored

    def above(of: object) -> dict[str, float]:
        return {kind: float(sums[f"ablation/{of}/{kind}"]) / scored - clean for kind in KINDS}

    return {"clean": clean, ALL: above(ALL), "sites": {str(site): above(site) for site in sites}}
