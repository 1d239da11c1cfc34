"""Steps of one dictionary, built from plain values, so that a fresh process can build the same ones."""

import torch

from benchmarks.inputs import activations
from benchmarks.step import LR, Call, Step
from scae.dictionaries import Dictionary, Shape, create

CHUNK_MB = 32  # conf/trainer/auto.yaml


def dictionary_step(*, tokens: int, d_model: int, features: int, k: int, device: str, upkeep: bool = False) -> Step:
    """A training step of one autoencoder. upkeep: with what a trainer does around it, as the peers' trainers do: firing
    counts, gradient clipping, decoder rows kept at norm 1."""
    x = activations(tokens, d_model, device=device)
    dictionary = _dictionary(d_model, features, k, device)
    live = torch.ones(tokens, dtype=torch.bool, device=device)
    optimizer = torch.optim.Adam(dictionary.parameters(), lr=LR, fused=True)

    def loss() -> torch.Tensor:
        code = dictionary.sparsify(dictionary.shift(x), live, chunk_mb=CHUNK_MB).code
        if upkeep:
            dictionary.count_firing(code.fired(), tokens)
        error = (x - dictionary.decode(code)).square().sum()
        return error / (x - x.mean(0)).square().sum()

    def clip() -> None:
        dictionary.decoder.project_gradient()
        torch.nn.utils.clip_grad_norm_(dictionary.parameters(), 1.0)

    if upkeep:
        return Step(loss, optimizer, clip, dictionary.decoder.normalise)
    return Step(loss, optimizer)


def encoder_product(*, tokens: int, d_model: int, features: int, k: int, device: str) -> Call:
    """The one product that no step can do without: `x @ W_enc.T` in float32."""
    x = activations(tokens, d_model, device=device)
    weight = _dictionary(d_model, features, k, device).encoder.W.detach()
    return Call(lambda: x @ weight.T)


def _dictionary(d_model: int, features: int, k: int, device: str) -> Dictionary:
    torch.manual_seed(0)
    return create(Shape(features, d_model, d_model, transcoder=False), type="topk", k=k).to(device)
