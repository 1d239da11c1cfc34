"""GroupMax: the largest of each group, where it is positive."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scae.dictionaries import Shape, create
from scae.dictionaries.types.groupmax import GroupMax


@settings(deadline=None, max_examples=60)
@given(
    groups=st.integers(1, 5),
    size=st.integers(1, 5),
    tokens=st.integers(1, 6),
    shift=st.sampled_from([-2.0, 0.0, 3.0]),
    seed=st.integers(0, 10**6),
)
def test_the_largest_of_each_group_is_kept_where_it_is_positive(
    groups: int, size: int, tokens: int, shift: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(tokens, groups * size, generator=generator, dtype=torch.float64) + shift
    live = torch.rand(tokens, generator=generator) < 0.7
    code = GroupMax(k=groups).support(pre, live)
    for row, alive, kept in zip(pre.tolist(), live.tolist(), code.dense().tolist(), strict=True):
        runs = [row[start : start + size] for start in range(0, len(row), size)]
        expected = [value if value == max(run) and value > 0 and alive else 0.0 for run in runs for value in run]
        assert kept == expected
    assert (code.value > 0).all()


def test_of_equals_one_is_kept() -> None:
    pre = torch.tensor([[2.0, 2.0, 1.0, 1.0]])
    assert len(GroupMax(k=2).support(pre, torch.ones(1, dtype=torch.bool)).value) == 2


def test_groups_have_one_size() -> None:
    with pytest.raises(ValueError, match="k=5 groups of one size cannot be made of 12 features"):
        create(Shape(12, 5, 5, transcoder=True), type="groupmax", k=5)
