"""Dictionaries in the files of other libraries: their formulas give what ours give, and what is read is the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scae.core.typing import Tensor
from scae.dictionaries import Dictionary, Shape, create
from scae.interop.formats import FORMATS
from scae.interop.found import FILES, find
from scae.interop.linear import Linear

SPECS: dict[str, dict[str, Any]] = {
    "vanilla": {"type": "vanilla"},
    "topk": {"type": "topk", "k": 3},
    "batchtopk": {"type": "batchtopk", "k": 3, "threshold_rate": 0.25},
}
ARCHITECTURES = {
    ("vanilla", False): "standard",
    ("vanilla", True): "transcoder",
    ("topk", False): "topk",
    ("topk", True): "topk",
    ("batchtopk", False): "jumprelu",
    ("batchtopk", True): "jumprelu_transcoder",
}
LIVE = torch.ones(9, dtype=torch.bool)
every = pytest.mark.parametrize(("type_", "transcoder"), ARCHITECTURES)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(type_: str, *, transcoder: bool) -> Dictionary:
    own = create(Shape(12, 6, 6, transcoder), **SPECS[type_])
    for number, parameter in enumerate(own.parameters()):
        parameter.data = random(*parameter.shape, seed=number)
    for number, unit in enumerate((own.reads, own.writes)):
        unit.centre.copy_(random(6, seed=20 + number * transcoder))
        unit.scale.fill_(1.7 + number * transcoder)
    if type_ == "batchtopk":
        own.activation.threshold.fill_(0.3)
    return own.eval()


def written(own: Dictionary, folder: Path, format: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    FORMATS[format].write(Linear.of(own), folder, {"hook_name": "blocks.0.hook_attn_out"} | (
        {"hook_name_out": "blocks.0.hook_mlp_out"} if own.transcoder else {}
    ))  # fmt: skip
    config, weights = FILES[format]
    return json.loads((folder / config).read_text()), load_file(folder / weights)


def top(pre: Tensor, k: int) -> Tensor:
    values, at = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, at, values.relu())


def as_saelens(config: dict[str, Any], t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """`encode` and `forward` of the library."""
    inside = x - t["b_dec"] if config["apply_b_dec_to_input"] else x
    pre = inside @ t["W_enc"] + t["b_enc"]
    if config["architecture"] == "topk":
        code = top(pre, config["k"])
    else:
        code = pre.relu() * (pre > t["threshold"]) if "threshold" in t else pre.relu()
    return code, code @ t["W_dec"] + t["b_dec"]


def as_sparsify(config: dict[str, Any], t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """`encode` and `decode` of the library."""
    inside = x if config["transcode"] else x - t["b_dec"]
    code = top((inside @ t["encoder.weight"].T + t["encoder.bias"]).relu(), config["k"])
    return code, code @ t["W_dec"] + t["b_dec"]


def same(ours: Dictionary, code: Tensor, out: Tensor, x: Tensor) -> None:
    own = ours.encode(x, LIVE)
    assert (own.dense() != 0).any(1).all()
    torch.testing.assert_close(code, own.dense(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out, ours.decode(own), rtol=1e-4, atol=1e-5)


@every
def test_the_formulas_of_saelens_give_the_same(type_: str, transcoder: bool, tmp_path: Path) -> None:
    own, x = filled(type_, transcoder=transcoder), random(9, 6, seed=9)
    config, tensors = written(own, tmp_path, "saelens")
    assert config["architecture"] == ARCHITECTURES[type_, transcoder]
    assert config["metadata"]["sae_lens_version"] >= "6"
    assert tensors["W_enc"].shape == (6, 12)
    assert ("threshold" in tensors) == (type_ == "batchtopk")
    same(own, *as_saelens(config, tensors, x), x)


@pytest.mark.parametrize("transcoder", [True, False])
@pytest.mark.parametrize("type_", ["vanilla", "topk"])
def test_the_formulas_of_sparsify_give_the_same(type_: str, transcoder: bool, tmp_path: Path) -> None:
    own, x = filled(type_, transcoder=transcoder), random(9, 6, seed=9)
    config, tensors = written(own, tmp_path, "sparsify")
    assert (config["num_latents"], config["transcode"]) == (12, transcoder)
    same(own, *as_sparsify(config, tensors, x), x)


def test_sparsify_has_no_thresholds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no thresholds; allowed for them: --format saelens"):
        written(filled("batchtopk", transcoder=False), tmp_path, "sparsify")


@every
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_read_is_the_same_function(type_: str, transcoder: bool, format: str, tmp_path: Path) -> None:
    if format == "sparsify" and type_ == "batchtopk":
        pytest.skip("refused, see above")
    own, x = filled(type_, transcoder=transcoder), random(9, 6, seed=9)
    written(own, tmp_path, format)
    assert find(tmp_path).format == format
    read = FORMATS[format].read(tmp_path)
    assert read.transcoder == transcoder
    made = read.dictionary(own.spec).eval()
    assert made.spec == own.spec
    code = made.encode(x, LIVE)
    same(own, code.dense(), made.decode(code), x)


@pytest.mark.parametrize(
    ("type_", "other"), [("topk", "vanilla"), ("vanilla", "topk"), ("batchtopk", "vanilla"), ("topk", "batchtopk")]
)
def test_another_type_is_refused(type_: str, other: str, tmp_path: Path) -> None:
    written(filled(type_, transcoder=False), tmp_path, "saelens")
    with pytest.raises(ValueError, match=f"kind={other} keeps"):
        FORMATS["saelens"].read(tmp_path).dictionary(SPECS[other])


def rewrite(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "cfg.json").read_text()) | changes
    (folder / "cfg.json").write_text(json.dumps(config))


def test_an_autoencoder_of_saelens_that_subtracts_nothing_is_read_as_what_it_computes(tmp_path: Path) -> None:
    config, tensors = written(filled("topk", transcoder=False), tmp_path, "saelens")
    rewrite(tmp_path, apply_b_dec_to_input=False)
    made, x = FORMATS["saelens"].read(tmp_path).dictionary(SPECS["topk"]).eval(), random(9, 6, seed=9)
    same(made, *as_saelens(config | {"apply_b_dec_to_input": False}, tensors, x), x)


def test_rows_that_choose_by_their_norm_are_read_as_what_they_compute(tmp_path: Path) -> None:
    config, t = written(filled("topk", transcoder=False), tmp_path, "saelens")
    rewrite(tmp_path, rescale_acts_by_decoder_norm=True)
    made, x = FORMATS["saelens"].read(tmp_path).dictionary(SPECS["topk"]).eval(), random(9, 6, seed=9)
    norm = t["W_dec"].norm(dim=1)
    code = top(((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * norm, config["k"])
    same(made, code, code / norm @ t["W_dec"] + t["b_dec"], x)


@pytest.mark.parametrize(
    ("format", "changes", "told"),
    [
        ("saelens", {"architecture": "gated"}, "architecture gated; allowed: standard"),
        ("saelens", {"architecture": "jumprelu"}, "without a threshold"),
        ("saelens", {"normalize_activations": "layer_norm"}, "normalize_activations=layer_norm; allowed: none"),
        ("sparsify", {"activation": "groupmax"}, "activation=groupmax; allowed: topk"),
    ],
)
def test_what_no_dictionary_here_computes_is_refused(
    format: str, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    written(filled("topk", transcoder=False), tmp_path, format)
    rewrite(tmp_path, **changes)
    with pytest.raises(ValueError, match=told):
        FORMATS[format].read(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_file_is_named(format: str, tmp_path: Path) -> None:
    _, tensors = written(filled("topk", transcoder=False), tmp_path, format)
    weights = tmp_path / FILES[format][1]
    tensors.pop("b_dec")
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"holds no b_dec; it has .*W_dec"):
        FORMATS[format].read(tmp_path)
    weights.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"{weights.name} is damaged"):
        FORMATS[format].read(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match=r"cfg\.json is damaged"):
        FORMATS[format].read(tmp_path)


def test_a_skip_connection_is_refused(tmp_path: Path) -> None:
    _, tensors = written(filled("topk", transcoder=True), tmp_path, "sparsify")
    save_file(tensors | {"W_skip": torch.zeros(6, 6)}, tmp_path / FILES["sparsify"][1])
    with pytest.raises(ValueError, match="W_skip"):
        FORMATS["sparsify"].read(tmp_path)
