"""Every metric against a direct computation over the concatenated corpus; ragged batches, so that means of batch means
would be another number."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from scae.connections import Connections, Inputs
from scae.data import TokenWindows
from scae.dictionaries import Shape, create
from scae.evaluation import Arm, Bypass, Unigram, compared, evaluate, unigram, walk
from scae.lm import LanguageModel, LinearPaths, Module, Trace
from scae.sites import Site
from scae.suite import Suite, SuiteOutput, choose_sites

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def gpt2(build_tiny: Make) -> LanguageModel:
    return build_tiny("gpt2").lm


def windows(lm: LanguageModel) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Six windows of seven positions, from none to four of them padding."""
    tokens = torch.randint(40, (6, 7), generator=torch.Generator().manual_seed(2))
    live = torch.arange(7) < torch.tensor([7, 4, 6, 3, 7, 5])[:, None]
    live[:, 0] = False
    return [(tokens[i : i + 1], live[i : i + 1]) for i in range(6)]


def batches(lm: LanguageModel, sizes: list[int]) -> Callable[[], Iterator[Trace]]:
    """The same windows, so many a batch."""
    all_windows = windows(lm)

    def traces() -> Iterator[Trace]:
        start = 0
        for size in sizes:
            tokens, live = zip(*all_windows[start : start + size], strict=True)
            yield lm.trace(torch.cat(tokens), torch.cat(live))
            start += size

    return traces


@pytest.fixture(scope="module")
def arms(gpt2: LanguageModel, make_suite: Make, ragged: Make, all_sites: Make) -> list[Arm]:
    sites = all_sites(gpt2)[:-1]  # one module has no dictionary
    suite, other, nothing = (make_suite(gpt2, sites=sites, seed=seed) for seed in (0, 1, 2))
    suite[sites[0]].encoder.b.data[:3] = -1e4  # dead
    other.connect(ragged(other.layout))
    nothing.connect(Connections.none(nothing.layout))
    return [Arm("plain", suite, "plain"), Arm("pruned", other, "pruned"), Arm("none", nothing, "pruned")]


def log_softmax(rows: np.ndarray) -> np.ndarray:
    top = rows.max(-1, keepdims=True)
    return rows - top - np.log(np.exp(rows - top).sum(-1, keepdims=True))


def corpus(lm: LanguageModel, make: Callable[[Trace], dict[Module, torch.Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities at every scored position of the corpus, and the token that follows."""
    q, targets = [], []
    for trace in batches(lm, [1] * 6)():
        stream = (trace.embed + sum(make(trace).values())).detach().numpy()[0]
        x = stream - stream.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + lm.paths.eps)
        logits = x @ lm.paths.W_U.numpy() + lm.paths.b_U.numpy()
        for t in range(6):
            if trace.live[0, t] and trace.live[0, t + 1]:
                q.append(log_softmax(logits[t]))
                targets.append(int(trace.tokens[0, t + 1]))
    return np.stack(q), np.array(targets)


def ce(q: np.ndarray, targets: np.ndarray) -> float:
    return -float(q[np.arange(len(q)), targets].mean())


def test_every_metric_is_a_ratio_of_corpus_sums(gpt2: LanguageModel, arms: list[Arm]) -> None:
    metrics = evaluate(gpt2, arms, batches(gpt2, [3, 1, 2]))
    sites, single = arms[0].suite.sites, list(batches(gpt2, [1] * 6)())
    y = {s: np.concatenate([t.outputs[s.module][t.live].numpy() for t in single]) for s in sites}

    def ablated(trace: Trace, constants: dict[Site, np.ndarray]) -> dict[Module, torch.Tensor]:
        outputs = {module: o.clone() for module, o in trace.outputs.items()}
        for site, constant in constants.items():
            outputs[site.module][trace.live] = torch.from_numpy(constant)
        return outputs

    p, targets = corpus(gpt2, lambda trace: trace.outputs)
    zero, _ = corpus(gpt2, lambda t: ablated(t, {s: np.zeros(y[s].shape[1]) for s in sites}))
    mean, _ = corpus(gpt2, lambda t: ablated(t, {s: y[s].mean(0) for s in sites}))
    expected = {"lm/ce": ce(p, targets), "lm/ce_zero": ce(zero, targets), "lm/ce_mean": ce(mean, targets)}
    expected |= {"lm/modules": 4.0, "lm/replaced": 3.0}  # the module without a dictionary writes what it wrote before
    ces = {}
    for arm in arms:
        suite = arm.suite.eval()
        outs: list[SuiteOutput] = [suite(trace, arm.mode) for trace in single]
        found = iter(outs)
        q, _ = corpus(gpt2, lambda trace, found=found: next(found).outputs)
        ces[arm.name] = ce(q, targets)
        name, fvus = arm.name, []
        for site in sites:
            y_hat = np.concatenate([o.outputs[site.module][o.live].detach().numpy() for o in outs])
            f = np.concatenate([o.codes[site].dense().detach().numpy()[o.live.flatten().numpy()] for o in outs])
            fvus.append(float(((y[site] - y_hat) ** 2).sum() / ((y[site] - y[site].mean(0)) ** 2).sum()))
            expected |= {
                f"{name}/fvu/{site}": fvus[-1],
                f"{name}/l0/{site}": float((f > 0).sum(1).mean()),
                f"{name}/dead/{site}": float(((f > 0).sum(0) == 0).mean()),
            }
        expected |= {
            f"{name}/ce": ces[name],
            f"{name}/ce_diff": ces[name] - expected["lm/ce"],
            f"{name}/ce_recovered": (expected["lm/ce_zero"] - ces[name]) / (expected["lm/ce_zero"] - expected["lm/ce"]),
            f"{name}/kl": float((np.exp(p) * (p - q)).sum(1).mean()),
            f"{name}/top1": float((p.argmax(1) == q.argmax(1)).mean()),
            f"{name}/fvu_mean": float(np.mean(fvus)),
            f"{name}/fvu_max": max(fvus),
        }
    for arm in arms:
        expected[f"{arm.name}/connected_recovered"] = (ces["none"] - ces[arm.name]) / (ces["none"] - expected["lm/ce"])
    assert metrics.keys() == expected.keys()
    assert metrics == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert metrics["plain/dead/0.attn"] >= 3 / 9
    assert metrics["none/connected_recovered"] == 0.0


def test_ce_of_the_model_is_what_the_model_itself_says(gpt2: LanguageModel, arms: list[Arm]) -> None:
    total, count = 0.0, 0
    for tokens, live in windows(gpt2):
        q = gpt2.bridge(tokens).detach().double().log_softmax(-1)
        for t in range(6):
            if live[0, t] and live[0, t + 1]:
                total, count = total - float(q[0, t, tokens[0, t + 1]]), count + 1
    assert evaluate(gpt2, arms, batches(gpt2, [6]))["lm/ce"] == pytest.approx(total / count, rel=1e-7)


def test_without_the_none_twin_nothing_is_said_about_connections(gpt2: LanguageModel, arms: list[Arm]) -> None:
    assert not [key for key in evaluate(gpt2, arms[:2], batches(gpt2, [6])) if "connected_recovered" in key]


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_metrics_do_not_depend_on_the_batch(
    gpt2: LanguageModel, make_suite: Make, ragged: Make, activation: str
) -> None:
    suite = make_suite(gpt2, activation=activation).train()
    suite.connect(ragged(suite.layout))
    if activation == "batchtopk":
        for site in suite.sites:
            suite[site].activation.threshold.fill_(0.6)
    state = {name: value.clone() for name, value in suite.state_dict().items()}
    found = []
    for sizes in ([6], [1] * 6, [2, 3, 1]):
        suite.train()
        arms = [Arm("plain", suite, "plain"), Arm("dense", suite, "dense"), Arm("pruned", suite, "pruned")]
        found.append(evaluate(gpt2, arms, batches(gpt2, sizes), [Bypass("pruned")]))
    assert found[1] == pytest.approx(found[0], rel=1e-9, abs=1e-11)
    assert found[2] == pytest.approx(found[0], rel=1e-9, abs=1e-11)
    for name, value in suite.state_dict().items():
        assert torch.equal(value, state[name]), f"evaluation changed {name}"


@pytest.mark.parametrize("mode", ["plain", "spliced", "dense", "pruned"])
def test_perfect_dictionaries_recover_everything(lm: LanguageModel, mode: Any) -> None:
    """Autoencoders whose rows are the axes in both directions; the modules between them keep their own outputs."""
    d_model = lm.paths.d_model
    axes = torch.cat([torch.eye(d_model), -torch.eye(d_model)]).double()
    dictionaries = {}
    for site in choose_sites(lm.paths, "all", ["attn"]):
        one = create(Shape(2 * d_model, d_model, d_model, transcoder=False), type="vanilla").double()
        one.encoder.W.data, one.decoder.W.data = axes.clone(), axes.clone()
        one.decoder.b.data = torch.linspace(-1, 1, d_model, dtype=torch.float64)
        dictionaries[site] = one
    suite = Suite(dictionaries, lm)
    suite.connect(every_pair(suite))
    metrics = evaluate(lm, [Arm("arm", suite, mode)], batches(lm, [4, 2]))
    assert metrics["arm/ce_diff"] == pytest.approx(0.0, abs=1e-7)
    assert metrics["arm/ce_recovered"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["arm/kl"] == pytest.approx(0.0, abs=1e-7)
    assert metrics["arm/top1"] == 1.0
    assert metrics["arm/fvu_max"] == pytest.approx(0.0, abs=1e-7)
    assert metrics["lm/ce_zero"] != pytest.approx(metrics["lm/ce"], abs=1e-3)


def every_pair(suite: Suite) -> Connections:
    """All connections, written out one by one."""
    layout, inputs = suite.layout, {}
    for site in layout.sites:
        n_up, n_down = layout.n_upstream(site), layout.size(site)
        down, up = torch.arange(n_down).repeat_interleave(n_up), torch.arange(n_up).repeat(n_down)
        inputs[site] = Inputs.from_pairs(down, up, n_down)
    return Connections(layout, inputs)


# bypass share


def bypass_share(arm: Arm, traces: Iterator[Trace]) -> dict[str, float]:
    return walk(arm.suite.lm, [arm], traces, [Bypass(arm.name)])


def test_without_connections_everything_bypasses_them(gpt2: LanguageModel, make_suite: Make) -> None:
    suite = make_suite(gpt2)
    suite.connect(Connections.none(suite.layout))
    shares = bypass_share(Arm("none", suite, "pruned"), batches(gpt2, [6])())
    assert shares == pytest.approx({f"connectivity/bypass/{site}": 1.0 for site in suite.sites}, rel=1e-9)


def test_bypass_share_is_a_ratio_of_variances(gpt2: LanguageModel, make_suite: Make, ragged: Make) -> None:
    suite = make_suite(gpt2).eval()
    suite.connect(ragged(suite.layout))
    seen: dict[Site, list[tuple[torch.Tensor, torch.Tensor]]] = {site: [] for site in suite.sites}
    for trace in batches(gpt2, [1] * 6)():
        at = trace.live.flatten()
        suite(trace, meet=lambda r, at=at: seen[r.site].append(tuple(x[at] for x in r.alone_and_all())))
    shares = bypass_share(Arm("pruned", suite, "pruned"), batches(gpt2, [4, 2])())
    assert len(shares) == len(suite.sites)
    for site, pairs in seen.items():
        base, pre = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        ratio = (base.var(0, correction=0) / pre.var(0, correction=0)).detach()
        assert shares[f"connectivity/bypass/{site}"] == pytest.approx(float(ratio.median()), rel=1e-8)
    assert shares["connectivity/bypass/1.mlp"] != pytest.approx(1.0, abs=1e-3)


def test_complete_connections_have_no_bypass_share(gpt2: LanguageModel, make_suite: Make) -> None:
    """Their pass adds everything up before anything is read; listed one by one they have one."""
    suite = make_suite(gpt2)
    assert suite.connections.is_complete
    assert bypass_share(Arm("pruned", suite, "pruned"), batches(gpt2, [6])()) == {}
    suite.connect(every_pair(suite))
    assert len(bypass_share(Arm("pruned", suite, "pruned"), batches(gpt2, [6])())) == len(suite.sites)


# unigram


def test_unigram_counts_text_only(gpt2: LanguageModel) -> None:
    tokens = torch.tensor([[9, 1, 1, 2], [9, 3, 1, 7]])  # 9: BOS; the last 7 is padding
    train = TokenWindows(tokens=tokens.int(), lengths=torch.tensor([4, 3]).int(), bos=True)
    log_p = unigram(train, 40)
    counts = np.ones(40)
    for token in (1, 1, 2, 3, 1):
        counts[token] += 1
    assert np.allclose(log_p.numpy(), np.log(counts / counts.sum()))
    log_p = unigram(TokenWindows(tokens=train.tokens, lengths=train.lengths, bos=False), 40)
    counts[9] += 2
    assert np.allclose(log_p.numpy(), np.log(counts / counts.sum()))


def test_unigram_ce(gpt2: LanguageModel) -> None:
    log_p = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).log_softmax(0)
    found = []
    for tokens, live in windows(gpt2):
        found += [-float(log_p[tokens[0, t + 1]]) for t in range(6) if live[0, t] and live[0, t + 1]]
    for sizes in ([6], [3, 2, 1]):
        ours = walk(gpt2, [], batches(gpt2, sizes)(), [Unigram(log_p)])
        assert ours == pytest.approx({"lm/ce_unigram": sum(found) / len(found)}, rel=1e-12)


def test_predictions_are_made_in_parts_and_those_of_the_model_once(
    gpt2: LanguageModel, arms: list[Arm], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    logits = LinearPaths.logits

    def counted(paths: LinearPaths, residual: torch.Tensor) -> torch.Tensor:
        rows.append(len(residual))
        return logits(paths, residual)

    monkeypatch.setattr(LinearPaths, "logits", counted)
    whole = evaluate(gpt2, arms, batches(gpt2, [4, 2]))
    assert len(rows) == 2 * (1 + 2 + len(arms)), "the model's own, two ablations and the arms, once a batch"
    at_once = sum(rows)
    rows.clear()
    monkeypatch.setattr(compared, "LOGITS", 3 * gpt2.paths.W_U.shape[1])
    in_parts = evaluate(gpt2, arms, batches(gpt2, [4, 2]))
    assert max(rows) == 3
    assert sum(rows) == at_once
    assert in_parts == pytest.approx(whole, rel=1e-12, abs=1e-14)
