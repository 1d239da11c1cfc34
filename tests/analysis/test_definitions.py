"""What a number is stands in the docs as in the file."""

from pathlib import Path

from scae.analysis.definitions import DEFINITIONS
from scae.report.analysis_files import FEATURE, PRUNED

PAGE = (Path(__file__).parents[2] / "docs" / "analysis.md").read_text()


def test_every_definition_is_in_the_docs() -> None:
    for key, sentence in DEFINITIONS.items():
        assert f"| `{key}` | {sentence.replace('|', chr(92) + '|')} |" in PAGE


def test_every_tensor_of_a_feature_is_defined() -> None:
    derived = ("_value",)
    for name in (*FEATURE, *PRUNED):
        assert name.removesuffix(*derived) in DEFINITIONS
