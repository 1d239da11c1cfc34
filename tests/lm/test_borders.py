"""Attention that stays inside a document: nothing crosses a border, and each document is what it is alone."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scae.config import TinyModel
from scae.core.typing import Tensor
from scae.data import train_tokenizer
from scae.lm import LanguageModel, Trace, UnsupportedModelError, check_borders
from scae.lm.borders import visible
from scae.lm.modules import Module
from scae.lm.paths import Attention
from scae.lm.tiny import TinyTraining, build_tiny

TOKENS = torch.tensor([[1, 7, 8, 9, 4, 6, 6, 30, 12], [1, 5, 5, 5, 5, 20, 21, 22, 2]])
DOCUMENTS = torch.tensor([[0, 1, 1, 1, 2, 2, 2, 3, 3], [0, 1, 1, 2, 2, 2, 2, 2, 3]])


@pytest.fixture(scope="module")
def bounded(lm: LanguageModel) -> Trace:
    return lm.trace(TOKENS, documents=DOCUMENTS)


def kept(documents: Tensor, row: int, query: int) -> list[int]:
    """The keys that a query may read, the slow way."""
    numbers = documents[row].tolist()
    return [k for k in range(query + 1) if numbers[k] in (0, numbers[query])]


def test_a_query_sees_its_document_and_the_bos() -> None:
    seen = visible(DOCUMENTS)
    for row in range(2):
        for query in range(9):
            assert seen[row, query].nonzero().flatten().tolist() == kept(DOCUMENTS, row, query)


def test_patterns_are_exactly_zero_across_borders(lm: LanguageModel, bounded: Trace) -> None:
    crossing = ~visible(DOCUMENTS)[:, None]
    assert bounded.patterns is not None
    free = lm.trace(TOKENS).patterns
    assert free is not None
    for layer, pattern in bounded.patterns.items():
        assert pattern.masked_select(crossing).eq(0).all()
        torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern.sum(-1)), rtol=0, atol=1e-6)
        assert free[layer].masked_select(crossing).gt(0).any()  # without the numbers attention does cross


def test_a_document_does_not_know_its_neighbours(lm: LanguageModel, bounded: Trace) -> None:
    other = TOKENS.clone()
    other[0, 1:4] = torch.tensor([33, 3, 17])
    other[0, 7:] = 11
    changed = lm.trace(other, documents=DOCUMENTS)
    inside = DOCUMENTS[0] == 2
    for module in lm.paths.modules:
        assert torch.equal(changed.outputs[module][0, inside], bounded.outputs[module][0, inside])
        assert not torch.equal(changed.outputs[module][0, ~inside], bounded.outputs[module][0, ~inside])


def test_the_first_document_is_what_it_is_alone(lm: LanguageModel, bounded: Trace) -> None:
    alone = lm.trace(TOKENS[:1, :4])
    for module in lm.paths.modules:
        torch.testing.assert_close(bounded.outputs[module][:1, :4], alone.outputs[module], rtol=1e-8, atol=1e-9)


def test_the_linear_paths_still_give_the_models_outputs(lm: LanguageModel, bounded: Trace) -> None:
    for module, stream in bounded.streams(lm.paths.levels):
        if module.kind == "attn":
            ours = Attention(lm.paths, module).read(stream, bounded)
            torch.testing.assert_close(ours, bounded.outputs[module], rtol=1e-4, atol=1e-5)


def test_a_spliced_run_stays_inside_too(lm: LanguageModel, bounded: Trace, make_suite: Any) -> None:
    wrote = lm.splice(bounded, lambda module, read, out: out, readers=())
    for module in lm.paths.modules:
        torch.testing.assert_close(wrote[module], bounded.outputs[module], rtol=1e-8, atol=1e-9)
    suite, inside = make_suite(lm), DOCUMENTS[0] == 2
    other = TOKENS.clone()
    other[0, 1:4] = torch.tensor([33, 3, 17])
    for mode in ("plain", "spliced", "dense", "pruned"):
        before, after = (
            suite(lm.trace(tokens, documents=DOCUMENTS), mode=mode).residual()[0, inside] for tokens in (TOKENS, other)
        )
        torch.testing.assert_close(before, after, rtol=1e-10, atol=1e-12)


def test_what_no_document_could_foretell_is_not_scored(bounded: Trace) -> None:
    pairs = [[a == b for a, b in pairwise(row)] for row in DOCUMENTS.tolist()]
    assert bounded.scored.tolist() == pairs


def test_a_model_whose_scores_cannot_be_changed_is_refused(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    check_borders(lm)
    monkeypatch.setattr(Module, "hook_scores", property(lambda module: f"blocks.{module.layer}.hook_resid_pre"))
    monkeypatch.setattr("scae.lm.model.hide_others", lambda documents: lambda value, hook: value)
    with pytest.raises(UnsupportedModelError, match=r"data\.attend_across=false: the attention of layers \[0, 1"):
        check_borders(lm)


def test_the_embedded_model_is_trained_inside_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_mlp": 24, "vocab_size": 260}
    optimizer = {"lr": 1.0, "warmup": 0.0, "decay": 0.0, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1}
    config = TinyModel(kind="tiny", steps=1, batch_size=1, dtype="float32", **sizes, **optimizer)
    torch.manual_seed(0)
    network = build_tiny(config, train_tokenizer(["some text"], 260), context=9).double()
    module = TinyTraining(network, config, identity={})
    monkeypatch.setattr(module, "log", lambda *args, **options: None)

    def loss(tokens: Tensor, documents: Tensor | None) -> Tensor:
        live = torch.zeros_like(tokens, dtype=torch.bool)
        live[:, 5:7] = True
        return module.training_step(SimpleNamespace(tokens=tokens, live=live, documents=documents), 0)

    other = TOKENS[:1].clone()
    other[0, 1:4] = 17
    inside, across = ([loss(t, d) for t in (TOKENS[:1], other)] for d in (DOCUMENTS[:1], None))
    torch.testing.assert_close(inside[0], inside[1], rtol=1e-10, atol=0)
    assert (across[0] - across[1]).abs() > 1e-6
