"""The paths of the stream: they are what the model computes, and virtual weights and movers are the same paths."""

import pytest
import torch

from scae.core.typing import Tensor
from scae.lm import LanguageModel, Module, Path, Trace
from scae.lm.paths import Attention, Direct


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def upstream(lm: LanguageModel, module: Module) -> list[Module]:
    """What a module reads besides the embedding."""
    number = next(number for number, level in enumerate(lm.paths.levels) if module in level)
    return [earlier for level in lm.paths.levels[:number] for earlier in level]


def paths_of(lm: LanguageModel) -> list[Path]:
    """To the input of every module, and to the output of every attention."""
    modules = lm.paths.modules
    inputs: list[Path] = [Direct(lm.paths, module) for module in modules]
    return inputs + [Attention(lm.paths, module) for module in modules if module.kind == "attn"]


def arrived(path: Path, trace: Trace, contributions: Tensor, unit: float = 1.0) -> Tensor:
    """Contributions `[batch, pos, head, feature]` where they are received, `[batch, pos, feature]`."""
    mover = path.mover(trace, torch.tensor(unit, dtype=torch.float64))
    if path.moves:
        return torch.einsum("bqkh,bkhi->bqi", mover, contributions)
    return mover.view(*trace.live.shape, 1) * contributions.sum(2)


def test_the_path_through_the_heads_reproduces_attention_outputs(lm: LanguageModel, trace: Trace) -> None:
    for module, stream in trace.streams(lm.paths.levels):
        if module.kind == "attn":
            path, before = Attention(lm.paths, module), upstream(lm, module)
            close(stream, trace.stream(before))
            close(path.read(stream, trace), trace.outputs[module])
            with pytest.raises(AssertionError):  # every upstream module matters
                close(path.read(trace.stream(before[:-1]) * 1.01, trace), trace.outputs[module])


def test_virtual_weights_are_the_path_of_one_row(lm: LanguageModel, trace: Trace) -> None:
    """A decoder row put on the stream at one position moves a downstream encoder row by its virtual weight."""
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = (torch.randn(3, lm.paths.d_model, generator=generator, dtype=torch.float64) for _ in range(2))
    stream = torch.zeros_like(trace.embed)
    stream[:, 2] = decoder[0]
    for path in paths_of(lm):
        without = path.read(torch.zeros_like(stream), trace)
        moved = (path.read(stream, trace) - without) @ encoder.T
        weight = (path.readers(encoder) * path.writers(decoder[:1])).sum(-1)  # down, head
        assert weight.shape[1] == path.n_heads
        contributions = torch.zeros(*trace.live.shape, path.n_heads, 3, dtype=torch.float64)
        contributions[:, 2] = weight.T
        close(arrived(path, trace, contributions, unit=0.5) / 2, moved)
        assert moved.abs().max() > 1e-3


def test_only_attention_moves_between_positions(lm: LanguageModel, trace: Trace) -> None:
    generator = torch.Generator().manual_seed(1)
    n_heads = lm.paths.W_O.shape[1]
    for path in paths_of(lm):
        assert (path.moves, path.n_heads) == ((True, n_heads) if isinstance(path, Attention) else (False, 1))
        there = torch.zeros(*trace.live.shape, path.n_heads, 2, dtype=torch.float64)
        there[:, 2] = torch.randn(len(there), path.n_heads, 2, generator=generator, dtype=torch.float64)
        found = arrived(path, trace, there).abs().amax((0, 2)) > 0
        assert found.tolist() == [position == 2 or (path.moves and position > 2) for position in range(len(found))]


def test_moving_back_is_the_transpose_of_moving(lm: LanguageModel, trace: Trace) -> None:
    """<move(c), w> = <c, move_back(w)>, whatever was contributed, c, and however it is weighted, w."""
    generator = torch.Generator().manual_seed(2)
    assert trace.patterns is not None
    for path in paths_of(lm):
        shape = (*trace.live.shape, path.n_heads, 5)
        contributions = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        weights = torch.randn(trace.live.numel(), 5, generator=generator, dtype=torch.float64)
        pattern = trace.patterns[path.module.layer] if path.moves else None
        back = path.move_back(weights, trace.scales[path.module], pattern)
        received = (arrived(path, trace, contributions).flatten(0, 1) * weights).sum()
        assert received.abs() > 1e-2
        close((contributions.flatten(0, 1) * back).sum(), received)
        (gradient,) = torch.autograd.grad(received, contributions)  # of each contribution on its own
        close(back, gradient.flatten(0, 1))
