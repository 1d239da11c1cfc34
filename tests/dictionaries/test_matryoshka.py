"""Matryoshka: the first features reconstruct on their own; the code is that of BatchTopK."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scae.core.typing import Tensor
from scae.dictionaries import Dictionary, Shape, create
from scae.dictionaries.types.matryoshka import Matryoshka
from scae.kernels import SparseCode

GROUPS = [0.125, 0.25, 0.125, 0.5]
PREFIXES = (2, 6, 8)  # of 16 features
LIVE = torch.arange(20) % 5 != 0


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both(*, transcoder: bool = False) -> tuple[Dictionary, Dictionary]:
    """A nested dictionary and the BatchTopK one with the same weights."""
    made = []
    for spec in ({"type": "matryoshka", "groups": GROUPS}, {"type": "batchtopk"}):
        dictionary = create(Shape(16, 6, 6, transcoder), k=3, threshold_rate=0.1, **spec).double()
        for number, parameter in enumerate(dictionary.parameters()):
            parameter.data = random(*parameter.shape, seed=number)
        dictionary.writes.scale.fill_(2.0)
        dictionary.writes.centre.copy_(random(6, seed=40))
        dictionary.ceiling[::3] = 1.5
        made.append(dictionary)
    return made[0], made[1]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_it_codes_as_batchtopk_does(training: bool) -> None:
    codes = [each.train(training).encode(random(20, 6), LIVE) for each in both()]
    assert len(codes[0].value) > 20
    assert torch.equal(codes[0].dense(), codes[1].dense())


@pytest.mark.parametrize("transcoder", [True, False], ids=["transcoder", "autoencoder"])
def test_a_prefix_reconstructs_as_if_there_were_no_other_features(transcoder: bool) -> None:
    """Values and gradients, beside a dictionary whose other features write nothing."""
    dictionary, plain = both(transcoder=transcoder)
    assert isinstance(dictionary.activation, Matryoshka)
    assert dictionary.activation.prefixes == PREFIXES
    shifted = dictionary.shift(random(20, 6))
    aux = dictionary.reconstruct(shifted, LIVE, aux=["partial"])[1].aux
    assert aux["partial"].shape == (3, 20, 6)
    assert "partial" not in dictionary.reconstruct(shifted, LIVE)[1].aux
    for ours, size in zip(aux["partial"], PREFIXES, strict=True):
        _, (code, _) = plain.reconstruct(shifted, LIVE)
        inside = (torch.arange(16) < size).double()
        f = code.dense() * inside
        assert (f != 0).any()
        theirs = plain.writes.leave(f @ plain.decoder.W + plain.decoder.b)
        torch.testing.assert_close(ours, theirs)
        weights = random(20, 6, seed=7)
        one, other = (
            torch.autograd.grad((out * weights).sum(), list(own.parameters()), retain_graph=True)
            for out, own in ((ours, dictionary), (theirs, plain))
        )
        for (name, _), a, b in zip(dictionary.named_parameters(), one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
        assert one[1][size:].abs().max() == 0, "a feature beyond it learns nothing from it"


@settings(deadline=None, max_examples=50)
@given(tokens=st.integers(1, 6), seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_entries_are_those_that_are_asked_for(tokens: int, seed: int, share: float) -> None:
    pre = random(tokens, 9, seed=seed)
    code = SparseCode.where(pre > -0.5, pre)
    keep = torch.rand(len(code.value), generator=torch.Generator().manual_seed(seed)) < share
    part = code.entries(keep)
    expected = torch.zeros_like(pre)
    for row, col, value, kept in zip(code.row.tolist(), code.col.tolist(), code.value, keep.tolist(), strict=True):
        expected[row, col] = value if kept else 0.0
    assert torch.equal(part.dense(), expected)
    assert len(part.value) == int(keep.sum())
    assert part.crow.tolist() == [0, *(expected != 0).sum(1).cumsum(0).tolist()]


def test_the_general_comes_first() -> None:
    """With the loss of the prefixes, the first features alone explain more than the first of a BatchTopK do."""
    torch.manual_seed(0)
    truth = torch.nn.functional.normalize(torch.randn(32, 12), dim=1) * torch.linspace(3, 0.3, 32)[:, None]
    x = (torch.rand(600, 32) < 0.1).float() @ truth
    live, alone = torch.ones(600, dtype=torch.bool), {}
    for weight in (0.0, 1.0):
        torch.manual_seed(1)
        dictionary = create(
            Shape(32, 12, 12, False), type="matryoshka", k=3, threshold_rate=0.1, groups=[0.125, 0.25, 0.625]
        )
        optimizer = torch.optim.Adam(dictionary.parameters(), lr=0.02)
        for _ in range(150):
            written, (_, aux) = dictionary.reconstruct(dictionary.shift(x), live, aux=["partial"])
            loss = (written - x).square().sum() + weight * (aux["partial"] - x).square().sum()
            optimizer.zero_grad()
            (loss / len(x)).backward()
            optimizer.step()
            dictionary.decoder.normalise()
        alone[weight] = float((aux["partial"][0].detach() - x).square().sum() / (x - x.mean(0)).square().sum())
    assert alone[1.0] < 0.8 * alone[0.0]
