"""An arm is declared once; what is said of it elsewhere follows from the declaration."""

import subprocess
import sys
from pathlib import Path

import pytest

from scae.arms import ARMS, RESULT, Arm

ROOT = Path(__file__).parents[1]


def test_what_runs_and_what_it_is_called() -> None:
    runs = {arm.key: (arm.mode, arm.connections, arm.finetuned, arm.twin) for arm in ARMS}
    assert runs == {
        "plain": ("plain", None, False, False),
        "spliced": ("spliced", None, False, False),
        "dense": ("dense", "all", False, False),
        "pruned": ("pruned", "chosen", True, False),
        "pruned_no_finetune": ("pruned", "chosen", False, False),
        "random_no_finetune": ("pruned", "random", False, False),
        "random": ("pruned", "random", True, True),
        "none": ("pruned", "none", True, True),
        "dense_finetuned": ("pruned", "all", True, True),
        "plain_finetuned": ("plain", None, True, True),
    }
    assert RESULT.key == "pruned"
    assert len({arm.label for arm in ARMS}) == len({arm.meaning for arm in ARMS}) == len(ARMS)


def test_against_c_only_what_follows_the_choice_of_connections_moves() -> None:
    moving = {arm.key for arm in ARMS if not arm.fixed}
    assert moving == {"pruned", "pruned_no_finetune", "random_no_finetune", "random"}


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.key)
def test_only_what_is_finetuned_can_be_a_twin(arm: Arm) -> None:
    """A twin is a suite of its own, the others are made with every experiment."""
    assert arm.finetuned or not arm.twin
    assert arm.mode != "dense" or not arm.finetuned


def test_a_declaration_needs_no_torch() -> None:
    script = "import sys, scae.arms; assert not {'torch', 'pydantic', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
