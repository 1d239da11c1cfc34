"""Labels keep apart, log axes have round ticks, and a flat line is drawn only for what is flat."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from scae.arms import ARMS
from scae.report.arms import style
from scae.report.figure import canvas, log_ticks, scale_y, spread
from scae.report.files import read_job
from scae.report.sweep_figure import _panel
from scae.report.sweep_jobs import axis_of


@pytest.mark.parametrize("places", [[0.5] * 6, [0.0, 0.01, 0.5, 0.99, 1.0, 1.0], [0.1, 0.3, 0.5, 0.7, 0.8, 0.9]])
def test_labels_keep_apart_in_order_within_the_axes(places: list[float]) -> None:
    moved = spread(places, 0.06, 0.0, 1.0)
    assert all(after - before > 0.06 - 1e-9 for before, after in pairwise(moved))
    assert moved[0] >= 0
    assert moved[-1] <= 1 + 1e-9


def test_labels_with_room_stay() -> None:
    assert spread([0.1, 0.4, 0.8], 0.06, 0.0, 1.0) == pytest.approx([0.1, 0.4, 0.8])


def test_log_ticks_are_round_and_inside() -> None:
    assert log_ticks(1.5, 6.8) == [1.5, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert log_ticks(0.005, 60.0) == [0.01, 0.1, 1.0, 10.0]


def test_the_axis_is_log_only_where_values_spread_and_holds_them_all() -> None:
    for values, is_log in (([0.2, 0.7, math.nan], False), ([0.1, 9.0], True)):
        axes = canvas(3.0, 3.0).add_subplot()
        assert scale_y(axes, values, log_from=10.0) is is_log
        low, high = axes.get_ylim()
        assert low < min(values[:2]) < max(values[:2]) < high


def test_every_arm_is_told_apart() -> None:
    looks = {(look["color"], str(look["linestyle"]), look["linewidth"]) for look in map(style, ARMS)}
    assert len(looks) == len({arm.label for arm in ARMS}) == len(ARMS) == 10


def test_arms_without_c_are_horizontal_unless_their_values_differ(
    tmp_path: Path, put: Callable[..., Path], make: Callable[..., dict[str, float]]
) -> None:
    jobs = [
        read_job(put(tmp_path / str(c), make(c) | {"dense/ce": 2.0 + c / 10}, [f"connectivity.C={c}"])) for c in (4, 16)
    ]
    axes = canvas(4.0, 3.0).add_subplot()
    _panel(axes, jobs, axis_of(jobs), {4.0: 2.0, 16.0: 4.0}, "ce", "")
    lines = {line.get_color(): [float(y) for y in line.get_ydata()] for line in axes.lines[:9]}
    by_key = {arm.key: lines[arm.colour] for arm in ARMS if arm.key in ("plain", "dense", "plain_finetuned")}
    assert by_key == {"plain": [2.22, 2.22], "dense": [2.4, 3.6], "plain_finetuned": [1.94, 1.94]}
