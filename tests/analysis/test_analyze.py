"""The whole analysis of tiny suites: every file, against what the passes give."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scae.analysis import Analysis, Looking, Wanted, analyze
from scae.analysis.looking import Codes
from scae.connections import Connections
from scae.lm import LanguageModel
from scae.report.analysis_files import TOKENS, Tables
from scae.sites import SINK, SOURCE, Site
from scae.suite import Suite, thresholds

Make = Callable[..., Any]
WANTED = Wanted(examples=5, neighbours=3, edges=None, prompts=None, seed=0)


@pytest.fixture(autouse=True)
def parts(small_parts: None) -> None:
    """Several parts of several batches."""


@pytest.fixture(scope="module")
def gpt2(build_tiny: Make) -> LanguageModel:
    """A model of its own: other tests watch other points."""
    shared = build_tiny("gpt2").lm
    return LanguageModel(shared.bridge, shared.tokenizer, shared.paths, bos=shared.bos)


@pytest.fixture
def suite(gpt2: LanguageModel, make_suite: Make, ragged: Make) -> Suite:
    suite = make_suite(gpt2, activation="relu")
    suite.connect(ragged(suite.layout))
    return suite


def dense(looking: Looking, mode: str, what: str) -> dict[Site, Any]:
    """Codes, targets or reconstructions over the whole text."""
    found: dict[Site, list[Any]] = {}
    for trace in looking.text.traces(looking.lm):
        out = looking.suites[mode](trace, mode=mode)  # type: ignore[index]
        for site, code in out.codes.items():
            of = {
                "codes": code.dense().clamp(min=0),
                "targets": trace.outputs[site.module].flatten(0, 1),
                "rebuilt": out.outputs[site.module].flatten(0, 1),
            }
            found.setdefault(site, []).append(of[what])
    return {site: torch.cat(parts) for site, parts in found.items()}


def test_the_database_and_both_look_ups(gpt2: LanguageModel, suite: Suite, looker: Make) -> None:
    looking = looker(gpt2, suite)
    assert len(looking.text.parts) == 3
    analyze(looking, WANTED)
    analysis = Analysis(looking.folder)
    assert analysis.passes == ("plain", "pruned")
    assert analysis.n_tokens == 63
    assert analysis.n_live == int(looking.text.live.sum())
    for mode in analysis.passes:
        codes = {site: values.float().numpy() for site, values in dense(looking, mode, "codes").items()}
        for site, values in codes.items():
            for number in range(values.shape[1]):
                tokens = np.flatnonzero(values[:, number])
                firings = analysis.tokens_of(str(site), number, mode)
                assert sorted(firings.token.tolist()) == tokens.tolist()
                assert firings.value.tolist() == sorted(values[tokens, number].tolist(), reverse=True)
                assert dict(firings) == {t: values[t, number] for t in tokens}
                assert len(analysis.tokens_of(str(site), number, mode, count=2)) == min(2, len(tokens))
        for token in range(analysis.n_tokens):
            wanted = {
                (str(site), f): values[token, f] for site, values in codes.items() for f in range(values.shape[1])
            }
            wanted = {key: value for key, value in wanted.items() if value > 0.7}
            found = analysis.features_at(token, 0.7, mode)
            assert {(one.site, one.feature): one.value for one in found} == wanted
            assert [one.value for one in found] == sorted(wanted.values(), reverse=True)
    assert not (looking.folder / "parts").exists()
    assert not (looking.folder / "sums.safetensors").exists()
    assert not [path for path in looking.folder.rglob("*") if path.name.startswith(".")]


def test_the_numbers_of_sites(gpt2: LanguageModel, suite: Suite, looker: Make) -> None:
    looking = looker(gpt2, suite)
    metrics = analyze(looking, WANTED)
    summary = json.loads((looking.folder / "analysis.json").read_text())
    live = looking.text.live
    for mode in ("plain", "pruned"):
        codes, targets, rebuilt = (dense(looking, mode, what) for what in ("codes", "targets", "rebuilt"))
        for note, site in zip(summary["sites"], suite.sites, strict=True):
            assert (note["site"], note["kind"], note["layer"]) == (str(site), site.kind, site.layer)
            f, y, ours = codes[site][live], targets[site][live], rebuilt[site][live]
            error, spread = y - ours, (y - y.mean(0)).square().sum()
            wanted = {
                "l0": (f > 0).double().sum(1).mean(),
                "l1": f.sum(1).mean(),
                "fvu": error.square().sum() / spread,
                "explained_variance": 1 - (error - error.mean(0)).square().sum() / spread,
                "cosine": F.cosine_similarity(y, ours).mean(),
                "mse": (error / suite[site].writes.scale).square().mean(),
                "dead": (f == 0).all(0).sum(),
            }
            for key, value in wanted.items():
                assert note[mode][key] == pytest.approx(float(value), rel=1e-9), (mode, site, key)
                assert metrics[f"analysis/{mode}/{key}/{site}"] == note[mode][key]
            assert sum(note["density"][mode]) == note["features"] - note[mode]["dead"]
            assert note["out_of"] == note["features"] == f.shape[1]
    plain, pruned = (dense(looking, mode, "codes") for mode in ("plain", "pruned"))
    for site in suite.sites:
        p, q = plain[site][live], pruned[site][live]
        tables = Tables(looking.folder / "features" / f"{site}.safetensors")
        for number in range(p.shape[1]):
            fires = [bool((one[:, number] > 0).any()) for one in (p, q)]
            degree = int(suite.connections[site].crow.diff()[number])
            alone = 3 if suite.layout.upstream(site) and degree == 0 else 0
            assert tables["state"][number] == (1 if not any(fires) else 2 if fires == [True, False] else alone)
    used = {key for note in summary["sites"] for mode in summary["passes"] for key in note[mode]}
    assert used <= summary["definitions"].keys()


def test_ablations_are_runs_of_the_live_model(gpt2: LanguageModel, suite: Suite, looker: Make) -> None:
    looking = looker(gpt2, suite)
    analyze(looking, WANTED)
    found = json.loads((looking.folder / "analysis.json").read_text())["ablation"]
    live, targets = looking.text.live, dense(looking, "plain", "targets")
    means = {site: y[live].mean(0) for site, y in targets.items()}

    def ce(hooks: Callable[[Any], dict[str, Any]]) -> float:
        total, count = 0.0, 0
        for trace in looking.text.traces(looking.lm):
            put = [
                (name, lambda own, hook, value=value, keep=trace.live[..., None]: torch.where(keep, value, own))
                for name, value in hooks(trace).items()
            ]
            logits = gpt2.bridge.run_with_hooks(trace.tokens, fwd_hooks=put)[:, :-1][trace.scored]
            total += float(F.cross_entropy(logits, trace.targets, reduction="sum"))
            count += len(trace.targets)
        return total / count

    clean = ce(lambda trace: {})
    assert found["clean"] == pytest.approx(clean, rel=1e-9)
    for site in suite.sites:
        name = site.module.hook_out
        rebuilt = ce(lambda trace, s=site, n=name: {n: suite(trace, mode="plain").outputs[s.module]})
        zero = ce(lambda trace, s=site, n=name: {n: torch.zeros_like(means[s])})
        mean = ce(lambda trace, s=site, n=name: {n: means[s]})
        of_site = found["sites"][str(site)]
        for kind, value in (("reconstruction", rebuilt), ("zero", zero), ("mean", mean)):
            assert of_site[kind] == pytest.approx(value - clean, abs=1e-9), (site, kind)
    hooks = {site.module.hook_out: mean for site, mean in means.items()}
    everything = {
        "mean": ce(lambda trace: hooks),
        "zero": ce(lambda trace: {name: torch.zeros_like(mean) for name, mean in hooks.items()}),
        "reconstruction": ce(
            lambda trace: {
                site.module.hook_out: suite(trace, mode="spliced").outputs[site.module] for site in suite.sites
            }
        ),
    }
    for kind, value in everything.items():
        assert found["all"][kind] == pytest.approx(value - clean, abs=1e-9), kind


def test_features_know_their_connections_and_tokens(gpt2: LanguageModel, suite: Suite, looker: Make) -> None:
    looking = looker(gpt2, suite)
    analyze(looking, WANTED)
    analysis = Analysis(looking.folder)
    paths = gpt2.paths
    scales = torch.cat(
        [paths.scale(trace.stream(paths.modules))[trace.live] for trace in looking.text.traces(looking.lm)]
    )
    for site in suite.sites:
        table = paths.centre(suite[site].decoder.W * suite[site].writes.scale) / scales.mean() @ paths.W_U
        table = table - table.mean(1, keepdim=True)
        for number in range(suite[site].n_features):
            feature = analysis.feature(str(site), number)
            order = table[number].argsort(descending=True)
            assert feature["promoted"].tolist() == order[:10].tolist()
            assert feature["suppressed"].tolist() == order.flip(0)[:10].tolist()
            torch.testing.assert_close(
                torch.from_numpy(feature["promoted_value"]), table[number][order[:10]].float(), rtol=1e-4, atol=1e-6
            )
            inputs = suite.inputs(site, number)
            assert feature.inputs is not None
            assert {(e.site, e.feature) for e in feature.inputs} == {(str(one.site), one.feature) for one in inputs}
            if feature["rate"][1] > 0:
                total = sum(edge.mean for edge in feature.inputs) + feature["inputs_constant"]
                assert total == pytest.approx(feature["inputs_total"], rel=1e-4, abs=1e-5)
            assert feature["top"].shape == (2, 5)
            for token, value in zip(feature["top"][1], feature["top_value"][1], strict=True):
                if token >= 0:
                    assert dict(analysis.tokens_of(str(site), number, "pruned"))[token] == value


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("stop", ["part", "sums", "codes", "features", "end"])
def test_a_killed_analysis_goes_on_and_ends_the_same(
    gpt2: LanguageModel, suite: Suite, looker: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    whole = looker(gpt2, suite, tmp_path / "whole")
    metrics = analyze(whole, WANTED)
    looked: list[int] = []
    output = Codes.output

    def counted(self: Any, arm: Any, out: Any, trace: Any) -> None:
        looked.append(len(trace.tokens))
        output(self, arm, out, trace)

    monkeypatch.setattr(Codes, "output", counted)
    import scae.analysis.looking as looking
    import scae.analysis.whole as stage

    place = {"part": (looking, "write", 3), "sums": (looking, "write", 4)}  # the second part, and its sums
    place |= {"codes": (stage, "write_codes", 3), "features": (stage, "write", 2), "end": (stage, "write_text", 2)}
    module, name, call = place[stop]
    original, calls = getattr(module, name), []

    def dies(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(module, name, dies)
        with pytest.raises(KeyboardInterrupt):
            analyze(looker(gpt2, suite, folder), WANTED)
    before = len(looked)
    again = analyze(looker(gpt2, suite, folder), WANTED)
    windows = 3 * 9  # three arms
    assert len(looked) > 0
    assert sum(looked) == windows + (3 * 4 if stop in ("part", "sums") else 0)  # one part more of two batches
    assert (len(looked) == before) == (stop not in ("part", "sums"))
    assert again == metrics
    assert files(folder) == files(whole.folder)


def test_what_was_left_damaged_is_made_again(
    gpt2: LanguageModel, suite: Suite, looker: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, other = (looker(gpt2, suite, tmp_path / name) for name in ("whole", "other"))
    analyze(whole, WANTED)
    other.run()
    (other.folder / "parts" / "00001.safetensors").write_bytes(b"torn")
    (other.folder / "codes" / "plain").mkdir(parents=True)
    (other.folder / "codes" / "plain" / "0.attn.safetensors").write_bytes(b"torn")
    analyze(looker(gpt2, suite, other.folder), WANTED)
    assert files(other.folder) == files(whole.folder)
    assert "it begins again" in caplog.text
    assert "it is written again" in caplog.text


@pytest.mark.parametrize("kind", ["ends", "crosslayer", "complete", "none"])
def test_suites_of_other_shapes(gpt2: LanguageModel, make_suite: Make, ragged: Make, looker: Make, kind: str) -> None:
    kinds = ("attn", "clt") if kind == "crosslayer" else ("attn", "mlp")
    sites = [Site(layer, one) for layer in range(2) for one in kinds]
    suite = make_suite(gpt2, sites=sites, ends=(SOURCE, SINK) if kind == "ends" else ())
    if kind != "complete":
        suite.connect(Connections.none(suite.layout) if kind == "none" else ragged(suite.layout))
    looking = looker(gpt2, suite)
    metrics = analyze(looking, WANTED)
    assert all(np.isfinite(value) for value in metrics.values())
    analysis = Analysis(looking.folder)
    assert analysis.sites == tuple(str(site) for site in suite.sites)
    feature = analysis.feature(str(sites[-1]), 1)
    if kind == "complete":
        assert feature.inputs is feature.outputs is None
        return
    assert feature.inputs is not None
    if kind == "none":
        assert feature.inputs == feature.outputs == ()
        assert set(analysis.features(str(sites[-1]))["state"]) <= {1, 2, 3}
        assert set(analysis.features(str(sites[0]))["state"]) <= {0, 1, 2}
    if kind == "ends":
        assert analysis.site_names == ("embed", *analysis.sites, "unembed")
        assert "embed" in {edge.site for edge in feature.inputs}
        token = next(edge.feature for edge in feature.inputs if edge.site == "embed")
        outputs = analysis.feature("embed", token).outputs
        assert outputs is not None
        assert (str(sites[-1]), 1) in {(edge.site, edge.feature) for edge in outputs}
        assert feature.outputs is not None
        assert {edge.site for edge in feature.outputs} == {"unembed"}
        assert analysis.feature("unembed", 1).inputs
    if kind == "crosslayer":
        assert analysis.note("0.clt")["further"] == [1]
        rows = suite[sites[1]].decoder
        table = (rows.W + rows.sizes[0] * rows.further[0]) * suite[sites[1]].writes.scale
        logits = gpt2.paths.centre(table) @ gpt2.paths.W_U
        assert analysis.features("0.clt")["promoted"][:, 0].tolist() == logits.argmax(1).tolist()


@pytest.mark.parametrize(
    ("names", "stream"),
    [(("0.resid", "1.mlp_out"), True), (("blocks.1.attn.hook_z",), False), (("blocks.0.hook_resid_mid",), True)],
)
def test_suites_that_are_not_pruned(
    build_tiny: Make, make_suite: Make, looker: Make, names: tuple[str, ...], stream: bool
) -> None:
    shared = build_tiny("gpt2").lm
    lm = LanguageModel(shared.bridge, shared.tokenizer, shared.paths, bos=shared.bos)
    suite = make_suite(lm, sites=[Site.parse(name) for name in names])
    looking = looker(lm, suite)
    metrics = analyze(looking, WANTED)
    analysis = Analysis(looking.folder)
    assert analysis.passes == ("plain",)
    assert {f"analysis/plain/fvu/{name}" for name in names} <= metrics.keys()
    for name in names:
        feature = analysis.feature(name, 0)
        assert "agreement" not in feature.rows
        assert feature.inputs is None
        assert (feature["promoted"] >= 0).all() == stream
        for number in range(analysis.n_features(name)):
            for token, value in analysis.tokens_of(name, number):
                assert (number, value) in [(one.feature, one.value) for one in analysis.features_at(token)]
    if len(names) == 1:
        assert metrics["analysis/ablation/zero/all"] == pytest.approx(metrics[f"analysis/ablation/zero/{names[0]}"])


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "matryoshka", "groupmax", "jumprelu", "gated"])
def test_every_type_of_dictionary(
    gpt2: LanguageModel, make_suite: Make, ragged: Make, looker: Make, copy_of: Make, activation: str
) -> None:
    suite = make_suite(gpt2, activation=activation)
    suite.connect(ragged(suite.layout))
    suites: dict[Any, Suite] = {}
    looking = looker(gpt2, suite)
    for mode in ("plain", "pruned", "spliced"):
        suites[mode] = copy_of(suite)
        thresholds.learn(suites[mode], looking.text.traces(looking.lm), mode)  # type: ignore[arg-type]
    looking = looker(gpt2, suite, **suites)
    analyze(looking, WANTED)
    analysis = Analysis(looking.folder)
    for mode in analysis.passes:
        for site, values in dense(looking, mode, "codes").items():
            assert values.sum() > 0
            file = analysis.codes(str(site), mode)
            stored = np.zeros(values.shape, dtype=np.float32)
            stored[np.repeat(np.arange(len(values)), np.diff(file["crow"])), file["feature"]] = file["value"]
            np.testing.assert_array_equal(stored, values.float().numpy())
            for number in range(values.shape[1]):
                assert (
                    sorted(dict(analysis.tokens_of(str(site), number, mode)))
                    == np.flatnonzero(values[:, number]).tolist()
                )


def test_what_is_known_of_the_tokens(gpt2: LanguageModel, suite: Suite, looker: Make, text: Any) -> None:
    looking = looker(gpt2, suite)
    text.save(looking.folder / TOKENS)
    found = Tables(looking.folder / TOKENS)
    tokens = text.windows.tokens
    assert found["id"].tolist() == tokens.flatten().tolist()
    assert found["position"].tolist() == list(range(7)) * 9
    assert found["window"].tolist() == [window for window in range(9) for _ in range(7)]
    assert found["live"].tolist() == text.windows.live().flatten().tolist()
    documents, number = [], 0
    for row in tokens.tolist():
        numbers = []
        for token in row[1:]:
            number += token == 11
            numbers.append(number)
        documents += [numbers[0], *numbers]
    first = documents[0]
    assert number > first, "there is a border"
    assert found["document"].tolist() == [one - first for one in documents]
    shutil.rmtree(looking.folder)
