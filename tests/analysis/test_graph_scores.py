"""Replacement and completeness of graphs that can be worked out by hand, and against the inverse of a matrix."""

import pytest
import torch

from scae.analysis.graph_scores import influence, normalised, scores

# token 0, error 1, feature 2, feature 3, logit 4, logit 5
A = torch.zeros(6, 6)
A[2, 0], A[2, 1] = 3.0, -1.0
A[3, 2], A[3, 1] = 1.0, 1.0
A[4, 3], A[4, 2] = 2.0, -2.0
A[5, 3] = 0.5
P = torch.tensor([0, 0, 0, 0, 0.5, 0.25])
IS = {"tokens": torch.tensor([True] + [False] * 5), "errors": torch.tensor([False, True] + [False] * 4)}


def test_by_hand() -> None:
    w3 = 0.5 * 0.5 + 0.25
    w2 = 0.5 * 0.5 + 0.5 * w3
    token, error = 0.75 * w2, 0.25 * w2 + 0.5 * w3
    found = scores(A, probability=P, **IS)
    assert found.replacement == pytest.approx(token / (token + error))
    everything = token + error + w2 + w3 + 0.75
    assert found.completeness == pytest.approx((everything - 0.25 * w2 - 0.5 * w3) / everything)


def test_influence_is_the_sum_over_all_paths() -> None:
    generator = torch.Generator().manual_seed(0)
    graph = torch.randn(12, 12, generator=generator, dtype=torch.float64).tril(-1)
    graph[torch.rand(12, 12, generator=generator) < 0.4] = 0
    shares, weight = normalised(graph), torch.rand(12, generator=generator, dtype=torch.float64)
    eye = torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(influence(shares, weight), weight @ (torch.linalg.inv(eye - shares) - eye))


def test_a_sparse_graph_is_the_same_graph() -> None:
    assert scores(A.to_sparse(), probability=P, **IS) == pytest.approx(scores(A, probability=P, **IS))


def test_without_errors_all_is_explained_and_the_unit_of_edges_does_not_count() -> None:
    none = {"tokens": IS["tokens"], "errors": torch.zeros(6, dtype=torch.bool)}
    assert scores(A, probability=P, **none) == (1.0, 1.0)
    assert scores(A * 2**9, probability=P, **IS) == scores(A, probability=P, **IS)


def test_a_cycle_is_refused() -> None:
    graph = A.clone()
    graph[2, 3] = 1.0
    with pytest.raises(ValueError, match="the graph has a cycle"):
        scores(graph, probability=P, **IS)
