"""`pretrain.init_from` by the experiment itself: what another run has made is where this one begins."""

import logging
from pathlib import Path

import pytest
import torch
from experiments import MICRO, configure, corpus, execute

from scae.config import ConfigError
from scae.experiment.plan import Plan


@pytest.mark.slow
def test_a_suite_begins_as_another_one_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From its artifact, and from files of another library; a step of next to no length in between."""
    from scae.dictionaries.folding import on_the_stream
    from scae.interop.__main__ import main
    from scae.suite.files import load_dictionaries

    corpus(tmp_path / "text.jsonl")

    def made(*overrides: str) -> Path:
        config = configure(
            *MICRO,
            f"data.path={tmp_path / 'text.jsonl'}",
            f"paths.artifacts={tmp_path / 'artifacts'}",
            f"paths.output={tmp_path / 'run'}",
            "stages=[pretrain]",
            *overrides,
        )
        execute(config)
        return Plan(config).pretrain.folder

    first = made()
    files = tmp_path / "files"
    assert main(["export", str(first), "--format", "sparsify", "--out", str(files)]) == 0
    before, _ = load_dictionaries(first)
    for path in (first, files):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            folder = made(f"pretrain.init_from={path}", "pretrain.steps=1", "pretrain.lr=1e-9")
        assert f"4 sites begin from {path}" in caplog.text
        assert folder != first
        after, _ = load_dictionaries(folder)
        for site, one in before.items():
            ours, theirs = on_the_stream(one).state_dict(), on_the_stream(after[site]).state_dict()
            if path == first:
                assert torch.equal(after[site].writes.scale, one.writes.scale)
            unit = float(after[site].writes.scale / one.writes.scale)  # of activations, where decoder rows have norm 1
            factors = {"encoder.W": unit, "encoder.b": unit, "ceiling": unit, "decoder.W": 1 / unit, "decoder.b": 1.0}
            for part, factor in factors.items():
                torch.testing.assert_close(theirs[part] * factor, ours[part], rtol=1e-3, atol=1e-4, msg=part)
    with pytest.raises(ConfigError, match=r"pretrain\.init_from=.*of type topk.*needed: .*of type vanilla"):
        made(f"pretrain.init_from={first}", "sae=vanilla")
    with pytest.raises(ConfigError, match=r"pretrain\.init_from=.*features.*needed: .* with 3 features"):
        made(f"pretrain.init_from={first}", "sae.features=3", "sae.expansion=null", "sae.k=2")
