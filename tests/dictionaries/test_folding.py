"""In other units a dictionary is the same function: codes, what is written, and back again."""

import copy
from typing import Any

import pytest
import torch

from scae.core.typing import Tensor
from scae.dictionaries import Dictionary, Shape, Unit, create
from scae.dictionaries.folding import begin_as, in_units, on_the_stream, refuse_unlike, with_rows_of_norm_one

SPECS: dict[str, dict[str, Any]] = {
    "vanilla": {"type": "vanilla"},
    "topk": {"type": "topk", "k": 3},
    "batchtopk": {"type": "batchtopk", "k": 3, "threshold_rate": 0.25},
}
LIVE = torch.tensor([1, 0, 1, 1, 1, 0, 1]).bool()
every_type = pytest.mark.parametrize("type_", SPECS)
sorts = pytest.mark.parametrize("transcoder", [True, False], ids=["transcoder", "autoencoder"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(type_: str, *, transcoder: bool, centred: bool = True, rows: str = "any") -> Dictionary:
    """In float64 and at inference; rows: "any", or "equal" where decoder rows are all of norm 1."""
    own = create(Shape(12, 5, 8 if transcoder else 5, transcoder), **SPECS[type_]).double()
    for number, parameter in enumerate(own.parameters()):
        parameter.data = random(*parameter.shape, seed=number)
    for number, unit in enumerate((own.reads, own.writes)):
        number = number if transcoder else 0
        unit.centre.copy_(centred * random(len(unit.centre), seed=20 + number))
        unit.scale.fill_(1.7 + number)
    if rows == "equal":
        own.decoder.normalise()
    if type_ == "batchtopk":
        own.activation.threshold.fill_(0.3)
    own.ceiling[::2] = 1.5
    return own.eval()


def unit(width: int, seed: int) -> Unit:
    made = Unit(width).double()
    made.centre.copy_(random(width, seed=seed))
    made.scale.fill_(0.3 + seed % 5)
    return made


def passed(own: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
    code = own.encode(x, LIVE)
    return code.dense(), own.decode(code)


def same(one: Dictionary, other: Dictionary, factor: Tensor | float = 1.0) -> None:
    x = random(7, one.shape.d_in, seed=9)
    (ours, wrote), (theirs, they_wrote) = passed(one, x), passed(other, x)
    assert torch.equal(ours != 0, theirs != 0)
    assert (ours != 0)[LIVE].any(1).all()
    torch.testing.assert_close(ours * factor, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(wrote, they_wrote, rtol=1e-12, atol=1e-12)


@every_type
@sorts
@pytest.mark.parametrize("centred", [True, False])
def test_on_the_stream_it_is_the_same_function(type_: str, transcoder: bool, centred: bool) -> None:
    own = filled(type_, transcoder=transcoder, centred=centred)
    before = copy.deepcopy(own.state_dict())
    plain = on_the_stream(own)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items()), "it stays as it is"
    assert plain.reads.scale == plain.writes.scale == 1
    assert not plain.reads.centre.any()
    assert not plain.writes.centre.any()
    same(own, plain)


@every_type
@sorts
def test_there_and_back_in_any_units(type_: str, transcoder: bool) -> None:
    own = filled(type_, transcoder=transcoder)
    reads = unit(5, 31)
    writes = unit(8, 33) if transcoder else reads
    other = in_units(on_the_stream(own), reads, writes)
    assert torch.equal(other.reads.centre, reads.centre)
    same(own, other)
    back = in_units(other, own.reads, own.writes)
    for name, value in own.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], value, rtol=1e-11, atol=1e-11, msg=name)


@every_type
@sorts
def test_rows_of_norm_one_write_the_same(type_: str, transcoder: bool) -> None:
    """Each activation takes over what its row loses, and with it what it is cut by."""
    own = filled(type_, transcoder=transcoder, rows="equal")
    assert with_rows_of_norm_one(own) is own
    raw = on_the_stream(own)
    made = with_rows_of_norm_one(raw)
    torch.testing.assert_close(made.decoder.W.norm(dim=1), torch.ones(12, dtype=torch.float64))
    same(raw, made, raw.decoder.W.norm(dim=1))


def test_where_rows_differ_only_what_chooses_each_feature_by_itself_can_have_rows_of_norm_one() -> None:
    own = filled("vanilla", transcoder=True)
    same(own, with_rows_of_norm_one(own), own.decoder.W.norm(dim=1))
    with pytest.raises(ValueError, match="the 3 largest would be others: the factors differ"):
        with_rows_of_norm_one(filled("topk", transcoder=True))
    with pytest.raises(ValueError, match="features have thresholds of their own"):
        with_rows_of_norm_one(filled("batchtopk", transcoder=True))


def test_a_silent_row_stays_silent() -> None:
    own = filled("vanilla", transcoder=True)
    own.decoder.W.data[3] = 0
    made = with_rows_of_norm_one(own)
    assert all(value.isfinite().all() for name, value in made.state_dict().items() if name != "ceiling")
    same(own, made, torch.where(own.decoder.W.norm(dim=1) > 0, own.decoder.W.norm(dim=1), 1))


@every_type
def test_one_begins_as_another_but_for_its_ceilings(type_: str) -> None:
    given = filled(type_, transcoder=True)
    given.tokens_since_fired[2] = 77
    own = create(given.shape, **given.spec).double().eval()
    begin_as(own, given)
    for name, value in own.state_dict().items():
        if name == "ceiling":
            assert value.isinf().all()
        else:
            assert torch.equal(value, given.state_dict()[name]), name
    own.encoder.W.data += 1
    assert not torch.equal(own.encoder.W, given.encoder.W), "they share nothing"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (create(Shape(12, 5, 8, True), type="vanilla"), "0.mlp is a transcoder of type vanilla with 12"),
        (create(Shape(13, 5, 8, True), type="topk", k=3), "of type topk with 13 features"),
        (create(Shape(12, 8, 8, False), type="topk", k=3), "0.mlp is an autoencoder"),
        (create(Shape(12, 6, 8, True), type="topk", k=3), "6 numbers read"),
        (create(Shape(12, 5, 8, True), type="topk", k=3, by_token=True), "in the unit of each token"),
    ],
)
def test_another_sort_is_refused(other: Dictionary, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        refuse_unlike(filled("topk", transcoder=True), other, "0.mlp")
    assert "needed: a transcoder of type topk with 12 features, 5 numbers read, 8 written" in str(caught.value)


def test_units_of_each_token_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match=r"sae\.normalise=token"):
        on_the_stream(create(Shape(12, 5, 5, False), type="topk", k=3, by_token=True))
