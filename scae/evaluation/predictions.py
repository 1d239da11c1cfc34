"""What every arm predicts, beside the model, as ratios of corpus sums in float64.

ce               -mean log q(next token), nats a token, where a text token is followed by one; what the model foretells
                 from a BOS, which sees no text, is left out, for the model itself (`lm/ce`) as for every arm
ce_diff          ce of the arm - ce of the model
ce_recovered     (ce_zero - ce) / (ce_zero - ce of the model); ce_zero: every module with a dictionary writes 0
kl               mean KL(model || arm)
top1             share of the positions where both predict the same token
connected_recovered   (ce of the `none` twin - ce) / (ce of the `none` twin - ce of the model)
above_dense      ce of the arm - ce of the `dense_finetuned` twin, the ceiling of any choice of connections

A module without a dictionary (`sites`) is not run again: in every arm, and where the others write 0 or their means, it
writes what it wrote in the clean run of the model. So a part of the model goes on knowing what the replaced modules
computed, and numbers of suites on other sites are not comparable: ce_zero least of all. What a reconstruction at a
point does, the live model says: there is no prediction of a plain pass with one, and its ablations run live.
"""

from functools import partial

import torch

from scae.core.typing import Float, Tensor
from scae.evaluation.ablations import ablated
from scae.evaluation.arms import Arm
from scae.evaluation.compared import Compared, compare
from scae.evaluation.moments import Moments
from scae.evaluation.walk import Metrics, Observer, Subject
from scae.lm import Trace
from scae.suite import SuiteOutput


class Predictions(Observer):
    """moments: of the same text, for the ablation that lets every module write its mean.

    Of an arm's output its final stream at the scored positions, or the logits of its sink, are kept to the end of the
    batch, so that what the model itself predicts is computed once for all arms.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments

    def begin(self, subject: Subject) -> None:
        self._lm, self._paths = subject.lm, subject.lm.paths
        means = {site.module: self.moments.mean(site) for site in subject.sites}
        self._constants = {"zero": {module: torch.zeros_like(mean) for module, mean in means.items()}, "mean": means}
        self._model = Compared()
        self._ablations = {name: Compared() for name in self._constants}
        self._arms: dict[str, Compared] = {}
        self._residuals: dict[str, Float[Tensor, "scored d_model"]] = {}
        self._logits: dict[str, Float[Tensor, "scored vocab"]] = {}

    def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
        if not out.predicts:
            return
        self._arms.setdefault(arm.name, Compared())
        if out.logits is None:
            self._residuals[arm.name] = trace.at_scored(out.residual())
        else:
            self._logits[arm.name] = trace.at_scored(out.logits)

    def batch(self, trace: Trace) -> None:
        """Logits of sinks are held for a whole batch."""
        for name, values in self._constants.items():
            self._residuals[name] = trace.at_scored(ablated(self._lm, trace, values))
        others = [(sums, partial(self._predicted, name)) for name, sums in (self._ablations | self._arms).items()]
        compare(trace, self._paths, self._model, others)
        self._residuals.clear()
        self._logits.clear()

    def _predicted(self, name: str, part: slice) -> Float[Tensor, "scored vocab"]:
        return self._logits[name][part] if name in self._logits else self._paths.logits(self._residuals[name][part])

    def result(self) -> Metrics:
        ce = {name: sums.ce for name, sums in (self._ablations | self._arms).items()}
        clean, zero = self._model.ce, ce["zero"]
        metrics = {"lm/ce": clean, "lm/ce_zero": zero, "lm/ce_mean": ce["mean"]}
        for name, sums in self._arms.items():
            of_arm = {
                "ce": sums.ce,
                "ce_diff": sums.ce - clean,
                "ce_recovered": (zero - sums.ce) / (zero - clean),
                "kl": sums.kl,
                "top1": sums.top1,
            } | self._beside_twins(sums)
            metrics |= {f"{name}/{key}": value for key, value in of_arm.items()}
        return metrics

    def _beside_twins(self, sums: Compared) -> Metrics:
        """How an arm stands beside the twins that ran: the floor without connections, the ceiling with all of them."""
        metrics, arms, clean = {}, self._arms, self._model.ce
        if "none" in arms:
            metrics["connected_recovered"] = (arms["none"].ce - sums.ce) / (arms["none"].ce - clean)
        if "dense_finetuned" in arms:
            metrics["above_dense"] = sums.ce - arms["dense_finetuned"].ce
        return metrics
