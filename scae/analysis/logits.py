"""The tokens of the vocabulary that a feature promotes and suppresses, by what it writes.

    logits_j = (P D_j / s) W_U, less its mean over the vocabulary      s: the mean of the final scale in the clean runs

D_j is what the feature has added to the final stream when its activation is 1, in units of the stream; a crosslayer
feature with all that it writes at later MLPs. What modules on the way make of it is left out.
"""

import re

import torch

from scae.analysis.database import Array
from scae.core.typing import Float, Tensor
from scae.lm import UNEMBED
from scae.report.analysis_files import LOGITS
from scae.sites import Site
from scae.suite import Suite

HELD = 1 << 22  # numbers of one table features x vocabulary
_ON_THE_STREAM = re.compile(r"hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)$")


@torch.no_grad()
def logits(suite: Suite, site: Site, final_scale: float) -> dict[str, Array]:
    """promoted, suppressed and their values, strongest first; -1 and NaN where a site does not write to the stream, or
    the vocabulary is smaller."""
    n_features, paths = suite[site].n_features, suite.lm.paths
    kept = min(LOGITS, paths.W_U.shape[1]) if writes_to_stream(site) else 0
    tokens = torch.full((2, n_features, LOGITS), -1, dtype=torch.int32)
    values = torch.full((2, n_features, LOGITS), torch.nan)
    rows = written(suite, site) if kept else None
    for part in torch.arange(n_features).split(max(1, HELD // paths.W_U.shape[1])) if kept else ():
        assert rows is not None
        table = paths.centre(rows[part.to(rows.device)]) / final_scale @ paths.W_U
        table = table - table.mean(1, keepdim=True)
        for number, largest in enumerate((True, False)):
            best = table.topk(kept, dim=1, largest=largest)
            tokens[number, part, :kept] = best.indices.int().cpu()
            values[number, part, :kept] = best.values.float().cpu()
    names = ("promoted", "suppressed")
    found = {name: tokens[number].numpy() for number, name in enumerate(names)}
    return found | {f"{name}_value": values[number].numpy() for number, name in enumerate(names)}


def written(suite: Suite, site: Site) -> Float[Tensor, "feature d_model"]:
    """What an activation of 1 has added to the final stream; in the mean unit, where every token has its own."""
    return suite[site].decoder.rows(UNEMBED) * suite[site].writes.scale


def writes_to_stream(site: Site) -> bool:
    """Whether what stands at a site is added to the stream, or is the stream."""
    return site.kind != "hook" or _ON_THE_STREAM.search(site.hook) is not None
