"""Held-out numbers of every arm, on the same tokens, as ratios of corpus sums in float64.

ce               -mean log q(next token), nats a token, where a text token is followed by one; what the model foretells
                 from a BOS, which sees no text, is left out, for the model itself (`lm/ce`) as for every arm
ce_diff          ce of the arm - ce of the model
ce_recovered     (ce_zero - ce) / (ce_zero - ce of the model); ce_zero: every module with a dictionary writes 0
kl               mean KL(model || arm)
top1             share of the positions where both predict the same token
fvu/<site>       sum ||y - yhat||^2 / sum ||y - mean y||^2, the mean over the whole corpus
l0/<site>        mean number of activations > 0 a token. BatchTopK: at thresholds learned in the arm's own pass: in its
                 training, or on training text before it is evaluated (`scae.suite.thresholds`)
dead/<site>      share of the features that never fire on these tokens
connected_recovered   (ce of the `none` twin - ce) / (ce of the `none` twin - ce of the model)
above_dense      ce of the arm - ce of the `dense_finetuned` twin, the ceiling of any choice of connections
lm/modules, lm/replaced   the attentions and MLPs of the model, and how many of them have a dictionary

A module without a dictionary (`sites`) is not run again: in every arm, and where the others write 0 or their means, it
writes what it wrote in the clean run of the model. So a part of the model goes on knowing what the replaced modules
computed, and numbers of suites on other sites are not comparable: ce_zero least of all.
"""

from collections.abc import Callable, Iterable

import torch

from scae.evaluation.arms import Arm
from scae.evaluation.sums import ArmSums, Moments, add_predictions
from scae.lm import LanguageModel, Trace
from scae.sites import Site
from scae.suite import SuiteOutput
from scae.typing import Float, Tensor

Metrics = dict[str, float]


@torch.no_grad()
def evaluate(lm: LanguageModel, arms: list[Arm], traces: Callable[[], Iterable[Trace]]) -> Metrics:
    """Every metric of every arm. `traces()` runs over the held-out windows; it is called twice, for the mean first."""
    sites = list(dict.fromkeys(site for arm in arms for site in arm.suite.sites))
    moments = Moments(sites)
    for trace in traces():
        moments.add(trace)
    sums = {arm.name: ArmSums(list(arm.suite.sites)) for arm in arms}
    for arm in arms:
        arm.suite.eval()
    model = ArmSums([])
    constants = {
        "zero": {site: torch.zeros_like(moments.mean(site)) for site in sites},
        "mean": {site: moments.mean(site) for site in sites},
    }
    ablations = {name: ArmSums([]) for name in constants}
    for trace in traces():
        residuals = {name: trace.at_scored(_ablated(trace, values).residual()) for name, values in constants.items()}
        for arm in arms:
            out = arm.suite(trace, mode=arm.mode)
            sums[arm.name].add(out, trace)
            residuals[arm.name] = trace.at_scored(out.residual())
        add_predictions(model, ablations | sums, residuals, trace, lm.paths)
    ce, ce_zero = model.ce, ablations["zero"].ce
    metrics = {"lm/ce": ce, "lm/ce_zero": ce_zero, "lm/ce_mean": ablations["mean"].ce}
    metrics |= {"lm/modules": float(len(lm.paths.modules)), "lm/replaced": float(len(sites))}
    for name, arm_sums in sums.items():
        of_arm = _arm_metrics(arm_sums, moments, ce, ce_zero) | _beside_twins(arm_sums, sums, ce)
        metrics |= {f"{name}/{key}": value for key, value in of_arm.items()}
    return metrics


def _arm_metrics(sums: ArmSums, moments: Moments, ce: float, ce_zero: float) -> Metrics:
    fvu = {site: sums.squared_error(site) / moments.variance(site) for site in sums.sites}
    metrics = {
        "ce": sums.ce,
        "ce_diff": sums.ce - ce,
        "ce_recovered": (ce_zero - sums.ce) / (ce_zero - ce),
        "kl": sums.kl,
        "top1": sums.top1,
        "fvu_mean": sum(fvu.values()) / len(fvu),
        "fvu_max": max(fvu.values()),
    }
    for site in sums.sites:
        metrics |= {f"fvu/{site}": fvu[site], f"l0/{site}": sums.l0(site), f"dead/{site}": sums.dead(site)}
    return metrics


def _beside_twins(sums: ArmSums, arms: dict[str, ArmSums], ce: float) -> Metrics:
    """How an arm stands beside the twins that ran: the floor without connections, the ceiling with all of them."""
    metrics = {}
    if "none" in arms:
        metrics["connected_recovered"] = (arms["none"].ce - sums.ce) / (arms["none"].ce - ce)
    if "dense_finetuned" in arms:
        metrics["above_dense"] = sums.ce - arms["dense_finetuned"].ce
    return metrics


@torch.no_grad()
def bypass_share(arm: Arm, traces: Iterable[Trace]) -> Metrics:
    """`connectivity/bypass/<site>`: Var over tokens of what a pre-activation owes to the embedding and the biases, over
    its whole variance; the median over features that vary. Above 1 where the two parts cancel. Empty for complete
    connections: their pass adds everything up before anything is read."""
    from scae.suite.passes import pruned

    sums: dict[Site, list[Tensor]] = {}
    live: Tensor
    arm.suite.eval()

    def observe(site: Site, base: Float[Tensor, "token feature"], pre: Float[Tensor, "token feature"]) -> None:
        parts = [x[live].double() for x in (base, pre)]
        new = [torch.tensor(len(parts[0]))] + [x.sum(0) for x in parts] + [x.square().sum(0) for x in parts]
        sums[site] = [a + b for a, b in zip(sums[site], new, strict=True)] if site in sums else new

    for trace in traces:
        live = trace.live.flatten()
        pruned(arm.suite, trace, observe=observe)
    metrics = {}
    for site, (n, base, pre, base2, pre2) in sums.items():
        whole = pre2 / n - (pre / n).square()
        share = (base2 / n - (base / n).square())[whole > 0] / whole[whole > 0]
        metrics[f"connectivity/bypass/{site}"] = float(share.median())
    return metrics


def _ablated(trace: Trace, constants: dict[Site, Float[Tensor, " d_model"]]) -> SuiteOutput:
    outputs = dict(trace.outputs)
    for site, constant in constants.items():
        value = constant.to(trace.embed.dtype)
        outputs[site.module] = torch.where(trace.live[..., None], value, trace.outputs[site.module])
    return SuiteOutput(trace.embed, trace.live, {}, outputs)
