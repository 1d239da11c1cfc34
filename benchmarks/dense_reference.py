"""The pruned pass as the public reference code computes it: with a dense matrix for every pair of sites.

For an upstream site u and an MLP site, with E the encoder rows (centred where the normalisation centres), D_u the
decoder rows, M_u the mask of the connections, f_u the dense activations, s the scale of a token:

    V_u = (E D_u^T) * M_u                                                   [down, up]
    p   = E (base / s) + sum_u V_u (f_u / s) + b_enc

and at an attention site, with v^h the encoder rows moved back through W_V^h W_O^h, A^h the pattern of a head:

    V_u^h = (v^h D_u^T) * M_u                                               [head, down, up]
    p(q)  = sum_h sum_k A^h(q, k) [ v^h (base / s)(k) + sum_u V_u^h (f_u / s)(k) ] + E (b_O - b_dec) + b_enc

    f     = the k largest of relu(p);  output = f D + b_dec where the position is live, the model's own elsewhere

base is the embedding plus what everything upstream writes when nothing fires. E and D are the rows of the dictionaries
times the units of what they read and write; f is cut at its ceiling. The gradient is autograd's. Where the public code
is slower or wrong for no reason of the formulation (it moves each pair's contributions through the pattern on their
own, forms the product of the encoder with W_V W_O once a pair, leaves the upstream bias unmoved: bug B1), this does the
better thing, so that what is measured is the dense formulation and the numbers are the same as ours.
"""

import torch

from scae.connections import Connections
from scae.core.typing import Bool, Float, Stream, Tensor
from scae.dictionaries import TopK
from scae.lm import Trace
from scae.sites import Site
from scae.suite import Suite

Masks = dict[tuple[Site, Site], Bool[Tensor, "down up"]]
"""By (upstream, downstream) site: which pairs of features are connected."""


def dense_masks(connections: Connections, device: torch.device) -> Masks:
    layout = connections.layout
    masks: Masks = {}
    for down in layout.sites:
        inputs = connections[down]
        mask = torch.zeros(layout.size(down), layout.n_upstream(down), dtype=torch.bool)
        mask[inputs.down.long(), inputs.up.long()] = True
        for up in layout.upstream(down):
            start = layout.offset(up)
            masks[up, down] = mask[:, start : start + layout.size(up)].contiguous().to(device)
    return masks


def dense_pass(suite: Suite, masks: Masks, trace: Trace) -> dict[Site, Stream]:
    """What every site with a dictionary writes to the stream."""
    outputs: dict[Site, Stream] = {}
    codes: dict[Site, Float[Tensor, "batch pos feature"]] = {}
    base = trace.embed
    live = trace.live[..., None]
    for level in suite.lm.paths.levels:
        here: dict[Site, Float[Tensor, "batch pos feature"]] = {}
        for module in level:
            site = suite.site_at(module)
            if site is not None:
                read = _mlp if site.transcoder else _attention
                here[site] = _largest(read(suite, masks, site, base, codes, trace), suite, site) * live
                reconstruction = here[site] @ _decoder(suite, site) + suite[site].constant
                outputs[site] = torch.where(live, reconstruction, trace.outputs[module])
        for module in level:
            site, own = suite.site_at(module), trace.outputs[module]
            base = base + (own if site is None else torch.where(live, suite[site].constant, own))
        codes |= here
    return outputs


def sum_of_fvu(outputs: dict[Site, Stream], trace: Trace) -> Float[Tensor, ""]:
    """`sum over sites of ||y - yhat||^2 / ||y - mean y||^2` over the live positions."""
    total = trace.embed.new_zeros(())
    for site, output in outputs.items():
        target = trace.outputs[site.module][trace.live]
        error = (target - output[trace.live]).square().sum()
        total = total + error / (target - target.mean(0)).square().sum()
    return total


def _mlp(
    suite: Suite, masks: Masks, site: Site, base: Stream, codes: dict[Site, Tensor], trace: Trace
) -> Float[Tensor, "batch pos down"]:
    encoder, scale = suite.lm.paths.centre(_encoder(suite, site)), trace.scales[site.module]
    pre = torch.einsum("btd,id->bti", base / scale, encoder)
    for up, code in codes.items():
        virtual = torch.einsum("id,jd->ij", encoder, _decoder(suite, up)) * masks[up, site]
        pre = pre + torch.einsum("btj,ij->bti", code / scale, virtual)
    return pre + _own_bias(suite, site)


def _attention(
    suite: Suite, masks: Masks, site: Site, base: Stream, codes: dict[Site, Tensor], trace: Trace
) -> Float[Tensor, "batch pos down"]:
    paths, encoder, scale = suite.lm.paths, _encoder(suite, site), trace.scales[site.module]
    W_O = paths.W_O[site.layer]
    W_V = paths.W_V[site.layer].repeat_interleave(W_O.shape[0] // paths.W_V.shape[1], dim=0)
    W_OV = torch.einsum("hdr,hre->hde", W_V, W_O)
    moved = paths.centre(torch.einsum("hde,ie->hid", W_OV, encoder))
    at_keys = torch.einsum("btd,hid->bhti", base / scale, moved)
    for up, code in codes.items():
        virtual = torch.einsum("hid,jd->hij", moved, _decoder(suite, up)) * masks[up, site]
        at_keys = at_keys + torch.einsum("btj,hij->bhti", code / scale, virtual)
    assert trace.patterns is not None
    pre = torch.einsum("bhqk,bhki->bqi", trace.patterns[site.layer], at_keys)
    return pre + paths.b_O[site.layer] @ encoder.T + _own_bias(suite, site)


def _encoder(suite: Suite, site: Site) -> Float[Tensor, "down d_model"]:
    return suite[site].encoder.W / suite[site].reads.scale


def _decoder(suite: Suite, site: Site) -> Float[Tensor, "up d_model"]:
    return suite[site].decoder.W * suite[site].writes.scale


def _own_bias(suite: Suite, site: Site) -> Float[Tensor, " down"]:
    dictionary = suite[site]
    bias = dictionary.encoder.b - _encoder(suite, site) @ dictionary.reads.centre
    return bias if dictionary.transcoder else bias - dictionary.encoder.W @ dictionary.decoder.b


def _largest(pre: Float[Tensor, "batch pos down"], suite: Suite, site: Site) -> Float[Tensor, "batch pos down"]:
    activation = suite[site].activation
    if not isinstance(activation, TopK):
        raise TypeError(f"{site}: the dense reference knows TopK alone, this is {type(activation).__name__}")
    values, at = torch.relu(pre).topk(min(activation.k, pre.shape[-1]), dim=-1)
    values = values.clamp(max=suite[site].ceiling[at])
    return torch.zeros_like(pre).scatter(-1, at, values)
