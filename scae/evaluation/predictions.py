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
computed, and numbers of suites on other sites are not comparable: ce_zero least of all.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from scae.core.typing import Float, Int, Tensor
from scae.evaluation.arms import Arm
from scae.evaluation.moments import Moments
from scae.evaluation.walk import Metrics, Observer, Subject
from scae.lm import Trace
from scae.sites import Site
from scae.suite import SuiteOutput

LOGITS = 1 << 22  # numbers of each of the few tables positions x vocabulary that are held at a time, in float64


class Predictions(Observer):
    """moments: of the same text, for the ablation that lets every module write its mean.

    Of an arm's output its final stream at the scored positions, or the logits of its sink, are kept to the end of the
    batch, so that what the model itself predicts is computed once for all arms.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments

    def begin(self, subject: Subject) -> None:
        self._paths = subject.lm.paths
        self._constants = {
            "zero": {site: torch.zeros_like(self.moments.mean(site)) for site in subject.sites},
            "mean": {site: self.moments.mean(site) for site in subject.sites},
        }
        self._model = _Sums()
        self._ablations = {name: _Sums() for name in self._constants}
        self._arms = {arm.name: _Sums() for arm in subject.arms}
        self._residuals: dict[str, Float[Tensor, "scored d_model"]] = {}
        self._logits: dict[str, Float[Tensor, "scored vocab"]] = {}

    def output(self, arm: Arm, out: SuiteOutput, trace: Trace) -> None:
        if out.logits is None:
            self._residuals[arm.name] = trace.at_scored(out.residual())
        else:
            self._logits[arm.name] = trace.at_scored(out.logits)

    def batch(self, trace: Trace) -> None:
        """A few positions at a time: five tables of `LOGITS` float64 are held at most (or one position's), however long
        the batch and however many the arms are. Logits of sinks are held for a whole batch."""
        for name, values in self._constants.items():
            self._residuals[name] = trace.at_scored(_ablated(trace, values).residual())
        clean, targets = trace.at_scored(trace.stream(self._paths.modules)), trace.targets
        step = max(1, LOGITS // self._paths.W_U.shape[1])
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            p = _log_probabilities(self._paths.logits(clean[part]))
            self._model.compare(p, p, targets[part])
            for name, sums in (self._ablations | self._arms).items():
                sums.compare(_log_probabilities(self._predicted(name, part)), p, targets[part])
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

    def _beside_twins(self, sums: "_Sums") -> Metrics:
        """How an arm stands beside the twins that ran: the floor without connections, the ceiling with all of them."""
        metrics, arms, clean = {}, self._arms, self._model.ce
        if "none" in arms:
            metrics["connected_recovered"] = (arms["none"].ce - sums.ce) / (arms["none"].ce - clean)
        if "dense_finetuned" in arms:
            metrics["above_dense"] = sums.ce - arms["dense_finetuned"].ce
        return metrics


class _Sums:
    """Of one arm, of an ablation, or of the model itself."""

    def __init__(self) -> None:
        self.n_scored = 0
        self._ce = self._kl = self._agree = 0.0

    def compare(
        self,
        q: Float[Tensor, "scored vocab"],
        p: Float[Tensor, "scored vocab"],
        targets: Int[Tensor, " scored"],
    ) -> None:
        """Log-probabilities of the arm and of the model at some positions, and the tokens that followed."""
        self.n_scored += len(targets)
        self._ce -= float(q.gather(1, targets[:, None]).sum())
        self._kl += float((p.exp() * (p - q)).sum())
        self._agree += int((q.argmax(-1) == p.argmax(-1)).sum())

    @property
    def ce(self) -> float:
        return self._ce / self.n_scored

    @property
    def kl(self) -> float:
        return self._kl / self.n_scored

    @property
    def top1(self) -> float:
        return self._agree / self.n_scored


def _log_probabilities(logits: Float[Tensor, "scored vocab"]) -> Float[Tensor, "scored vocab"]:
    return F.log_softmax(logits.double(), dim=-1)


def _ablated(trace: Trace, constants: Mapping[Site, Float[Tensor, " d_model"]]) -> SuiteOutput:
    outputs = dict(trace.outputs)
    for site, constant in constants.items():
        value = constant.to(trace.embed.dtype)
        outputs[site.module] = torch.where(trace.live[..., None], value, trace.outputs[site.module])
    return SuiteOutput(trace.embed, trace.live, {}, outputs)
