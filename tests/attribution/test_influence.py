"""Influence, scores and thresholds against dense matrices, and on a graph that is counted by hand."""

import pytest
import torch

from scae.attribution import KINDS, Kind, Links, Nodes, cumulative, cut, influence, scores

# token 0, token 1, bias 2, error 3, features 4 5 6, logits 7 8
KIND: tuple[Kind, ...] = ("token", "token", "bias", "error", "feature", "feature", "feature", "logit", "logit")
LEVEL = (0, 0, 0, 0, 1, 1, 2, 3, 3)


def nodes_of(kinds: tuple[Kind, ...], level: tuple[int, ...], probability: list[float], plain: float = 0.0) -> Nodes:
    nan = torch.full((len(kinds),), torch.nan, dtype=torch.float64)
    zero = torch.zeros(len(kinds), dtype=torch.long)
    pre = torch.where(torch.tensor([kind == "feature" for kind in kinds]), torch.zeros_like(nan), nan)
    kind = torch.tensor([KINDS.index(one) for one in kinds])
    likely = torch.tensor(probability, dtype=torch.float64)
    return Nodes((), kind, zero - 1, zero, zero, torch.tensor(level), nan, pre, pre + plain, nan, likely, nan)


def links_of(edges: dict[tuple[int, int], float]) -> Links:
    source, target = (torch.tensor(end) for end in zip(*edges, strict=True))
    return Links(source, target, torch.tensor(list(edges.values()), dtype=torch.float64))


@pytest.fixture
def nodes() -> Nodes:
    return nodes_of(KIND, LEVEL, [0] * 7 + [0.6, 0.2])


@pytest.fixture
def links() -> Links:
    edges = {(0, 4): 3.0, (1, 4): -1.0, (2, 4): 100.0, (1, 5): 2.0, (4, 6): 1.0, (5, 6): -3.0, (3, 6): 4.0}
    return links_of(edges | {(6, 7): 2.0, (4, 7): 2.0, (6, 8): -1.0, (3, 8): 3.0, (2, 8): 9.0})


def test_by_hand(nodes: Nodes, links: Links) -> None:
    found = influence(nodes, links)
    six = 0.6 / 2 + 0.2 / 4
    four = 0.6 / 2 + six / 8
    five = six * 3 / 8
    assert found.tolist() == pytest.approx(
        [four * 3 / 4, four / 4 + five, 0, six / 2 + 0.2 * 3 / 4, four, five, six, 0, 0]
    )


def dense(nodes: Nodes, links: Links) -> torch.Tensor:
    A = torch.zeros(len(nodes), len(nodes), dtype=torch.float64)
    A[links.target, links.source] = links.weight.abs()
    A[:, nodes.of("bias")] = 0
    return A / A.sum(1, keepdim=True).clamp_min(1e-30)


def random_graph(seed: int) -> tuple[Nodes, Links]:
    generator = torch.Generator().manual_seed(seed)
    kinds: tuple[Kind, ...] = ("token",) * 4 + ("bias",) * 2 + ("error",) * 2 + ("feature",) * 30 + ("logit",) * 3
    level = (0,) * 8 + tuple(1 + number // 6 for number in range(30)) + (9,) * 3
    nodes = nodes_of(kinds, level, [0.0] * 38 + [0.5, 0.3, 0.1], plain=0.7)
    size = torch.randn(41, 41, dtype=torch.float64, generator=generator).exp()
    there = torch.rand(41, 41, generator=generator) < 0.4
    there[0] = True  # no feature reads constants alone
    sign = torch.rand(41, 41, generator=generator).round() * 2 - 1
    edges = {
        (source, target): (size * sign)[source, target].item()
        for source in range(41)
        for target in range(41)
        if level[source] < level[target] and there[source, target]
    }
    return nodes, links_of(edges)


@pytest.mark.parametrize("seed", range(3))
def test_back_substitution_is_the_inverse(seed: int) -> None:
    nodes, links = random_graph(seed)
    A = dense(nodes, links)
    inverse = torch.linalg.inv(torch.eye(len(A), dtype=A.dtype) - A) - torch.eye(len(A), dtype=A.dtype)
    torch.testing.assert_close(influence(nodes, links), nodes.probability @ inverse)
    backwards = torch.randperm(len(links.weight), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(influence(nodes, Links(*(c[backwards] for c in links))), nodes.probability @ inverse)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_circuit_tracer(seed: int) -> None:
    nodes, links = random_graph(seed)
    A, found, found_scores = dense(nodes, links), influence(nodes, links), scores(nodes, links)
    error, token = nodes.of("error"), nodes.of("token")
    assert found_scores.replacement == pytest.approx((found[token].sum() / found[token | error].sum()).item())
    reached = found + nodes.probability
    completeness = ((1 - A[:, error].sum(1)) * reached).sum() / reached.sum()
    assert found_scores.completeness == pytest.approx(completeness.item())


@pytest.mark.parametrize("seed", range(3))
def test_strict_scores_have_one_more_error_a_feature(seed: int) -> None:
    """What the plain pass adds to a pre-activation, here 0.7, as an edge from an error of its own."""
    nodes, links = random_graph(seed)
    features = nodes.of("feature").nonzero()[:, 0]
    kinds = tuple(KINDS[int(kind)] for kind in nodes.kind)
    level, likely = tuple(nodes.level.tolist()), nodes.probability.tolist()
    more = nodes_of((*kinds, *["error"] * 30), (*level, *[0] * 30), likely + [0.0] * 30)  # type: ignore[arg-type]
    added = Links(torch.arange(41, 71), features, torch.full((30,), 0.7, dtype=torch.float64))
    explicit = scores(more, Links.joined([links, added]))
    found = scores(nodes, links)
    assert found.strict_replacement == pytest.approx(explicit.replacement)
    assert found.strict_completeness == pytest.approx(explicit.completeness)
    assert found.strict_replacement < found.replacement
    assert found.strict_completeness < found.completeness


def test_constants_have_a_share_of_their_own(nodes: Nodes, links: Links) -> None:
    reached = influence(nodes, links) + nodes.probability
    weight = {node: reached[node].item() for node in (4, 5, 6, 7, 8)}
    constant = weight[4] * 100 / 104 + weight[8] * 9 / 13
    assert scores(nodes, links).constant == pytest.approx(constant / sum(weight.values()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("node_threshold", "edge_threshold"), [(0.8, 0.98), (0.5, 0.9), (0.3, 0.5)])
def test_thresholds_are_those_of_circuit_tracer(seed: int, node_threshold: float, edge_threshold: float) -> None:
    """Its algorithm, on dense matrices."""
    nodes, links = random_graph(seed)
    A, likely = dense(nodes, links), nodes.probability
    ends, feature, bias = nodes.of("token", "logit"), nodes.of("feature"), nodes.of("bias")

    def least(values: torch.Tensor, share: float) -> torch.Tensor:
        ordered = values.flatten().sort(descending=True).values
        return ordered[int(torch.searchsorted(ordered.cumsum(0) / ordered.sum(), share).clamp(max=len(ordered) - 1))]

    def spread(B: torch.Tensor) -> torch.Tensor:
        return likely @ (torch.linalg.inv(torch.eye(len(B), dtype=B.dtype) - B) - torch.eye(len(B), dtype=B.dtype))

    found = spread(A)
    keep = (found >= least(found, node_threshold)) | ends
    size = torch.zeros_like(A)
    size[links.target, links.source] = links.weight.abs()
    size[:, bias] = 0
    size[~keep] = 0
    size[:, ~keep] = 0
    B = size / size.sum(1, keepdim=True).clamp_min(1e-30)
    score = B * (spread(B) + likely)[:, None]
    edge = score >= least(score, edge_threshold)
    for _ in range(50):
        edge[~keep], edge[:, ~keep] = False, False
        keep = keep & (ends | edge.any(0)) & (~feature | edge.any(1))
    ours = cut(nodes, links, node_threshold=node_threshold, edge_threshold=edge_threshold)
    assert torch.equal(ours.node[~bias], keep[~bias])
    explained = ~bias[links.source]
    assert torch.equal(ours.edge[explained], edge[links.target, links.source][explained])
    assert 0 < ours.node[feature].sum() < feature.sum()
    if ours.node[bias].any():
        assert bias[links.source[ours.edge]].any()


def test_everything_stays_at_thresholds_of_one(nodes: Nodes, links: Links) -> None:
    kept = cut(nodes, links, node_threshold=1.0, edge_threshold=1.0)
    assert kept.node.all()
    assert kept.edge.all()


def test_a_feature_that_reads_constants_alone_stays() -> None:
    nodes = nodes_of(("bias", "feature", "logit"), (0, 1, 2), [0, 0, 1.0])
    kept = cut(nodes, links_of({(0, 1): 2.0, (1, 2): 1.0}), node_threshold=0.8, edge_threshold=0.98)
    assert kept.node.all()
    assert kept.edge.all()


@pytest.mark.parametrize("wrong", [{"node_threshold": 1.5}, {"edge_threshold": -0.1}])
def test_a_threshold_is_a_share(nodes: Nodes, links: Links, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*: a share of the influence, 0 to 1"):
        cut(nodes, links, **({"node_threshold": 0.8, "edge_threshold": 0.98} | wrong))


def test_a_slider_at_a_share_shows_the_fewest_nodes_that_hold_it() -> None:
    found = cumulative(torch.tensor([1.0, 5.0, 3.0, 1.0, 0.0]))
    assert found.tolist() == pytest.approx([0.9, 0.5, 0.8, 1.0, 1.0])
