"""Activations to train one dictionary on, the same for ours and for the peers, whose environments have no scae."""

import torch


def activations(tokens: int, d_model: int, *, device: str, seed: int = 0) -> torch.Tensor:
    """`[tokens, d_model]` float32, of variance 1 around a mean that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(tokens, d_model, generator=generator)
    return (noise + 0.3 * torch.randn(d_model, generator=generator)).to(device)
