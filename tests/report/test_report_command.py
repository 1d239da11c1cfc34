"""`python -m scae.report DIR`."""

import ast
import json
from pathlib import Path

import pytest

import scae.report
from scae.report.__main__ import main


def test_a_run_is_rebuilt_and_printed(tmp_path: Path, metrics: dict[str, float], capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "1.980" in printed
    assert str(tmp_path / "report.md") in printed
    assert (tmp_path / "report.md").is_file()


def test_a_sweep_is_rebuilt_and_printed(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(sweep)]) == 0
    printed = capsys.readouterr().out
    assert "failed" in printed
    assert "6.300" in printed
    assert str(sweep / "sweep.png") in printed


def test_anything_else_is_one_line_and_status_2(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    for directory, expected in (
        (sweep / "absent", "is not a directory"),
        (sweep.parent, "neither metrics.json nor directories of jobs; did you mean '"),
        (sweep / "4", "holds no metrics"),
    ):
        assert main([str(directory)]) == 2
        captured = capsys.readouterr()
        assert expected in captured.err
        assert len(captured.err.splitlines()) == 1
        assert captured.out == ""


def test_it_reads_files_only() -> None:
    """No module of the report imports more than plotting, printing and itself."""
    allowed = {"argparse", "collections", "contextlib", "csv", "dataclasses", "itertools", "json", "math", "matplotlib"}
    allowed |= {"os", "pathlib", "re", "rich", "statistics", "sys", "textwrap", "typing"}
    allowed |= {"base64", "functools", "hashlib", "html", "numpy", "safetensors", "shutil", "urllib", "zlib"}
    ours = ("scae.report", "scae.arms", "scae.config", "scae.core.whole_files")  # none of them needs torch
    for path in Path(scae.report.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.startswith(ours) or name.partition(".")[0] in allowed, f"{path.name}: {name}"
