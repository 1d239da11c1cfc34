"""An experiment whose features read tokens, and whose predictions read features, along connections only."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from experiments import ROOT, SITES, Finished, alone, execute, finish, made, untimed, variation
from test_runs import record

from scae.evaluation import Arm, evaluate
from scae.experiment.opened import Run, open_run
from scae.sites import SINK, SOURCE, Site

_ = alone, made  # fixtures of the tests here, too
ENDS = ("sites.embed=true", "sites.unembed=true")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory)


@pytest.fixture(scope="module")
def run(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Beside the run without ends, of which it has the language model."""
    folder = tmp_path_factory.mktemp("ends")
    config = variation(finished, folder, *ENDS)
    output = Path(config.paths.output)
    metrics = execute(config)
    record(output, finished, "evaluation.twins=false", *ENDS, cwd=ROOT)
    return Finished(folder, output, (*finished.overrides, *ENDS), config, metrics, finished.made)


@pytest.fixture(scope="module")
def opened(run: Finished) -> Run:
    return open_run(run.output)


def of_connections(metrics: dict[str, float]) -> set[str]:
    return {key for key in metrics if key.startswith("connectivity/")}


def test_the_numbers_say_what_is_read_from_tokens_and_by_predictions(finished: Finished, run: Finished) -> None:
    sites = ("embed", *SITES, "unembed")
    more = {f"connectivity/from/{down}/embed" for down in sites[1:]}
    more |= {f"connectivity/from/unembed/{up}" for up in SITES}
    more |= {f"connectivity/kept/{site}" for site in ("0.attn", "unembed")}
    assert of_connections(run.metrics) == of_connections(finished.metrics) | more
    assert all(math.isfinite(value) for value in run.metrics.values())
    for number, down in enumerate(sites[1:], start=1):
        assert sum(run.metrics[f"connectivity/from/{down}/{up}"] for up in sites[:number]) == pytest.approx(1)
    assert run.metrics["connectivity/from/0.mlp/embed"] > 0
    assert run.metrics["connectivity/from/unembed/1.mlp"] > 0


def test_the_model_is_the_same_and_the_pruned_suite_is_not(finished: Finished, run: Finished) -> None:
    assert run.metrics["lm/ce"] == finished.metrics["lm/ce"]
    assert run.metrics["pruned/ce"] != finished.metrics["pruned/ce"]
    assert "unembed" in (run.output / "report.md").read_text()


def test_a_repeat_computes_nothing(run: Finished, made: list[str], tmp_path: Path) -> None:
    again = execute(variation(run, tmp_path))
    assert made == []
    assert untimed(again) == untimed(run.metrics)


def test_every_prediction_has_as_many_connections(run: Finished, opened: Run) -> None:
    """A token that never comes next in the sample, too: it is scored over all positions."""
    connections, C = opened.suite.connections, run.config.connectivity.C
    assert connections.layout.sites == (SOURCE, *map(Site.parse, SITES), SINK)
    assert (connections[SINK].crow.diff() == C).all()
    assert run.metrics["connectivity/edges"] == len(connections)


def test_the_run_is_opened_with_its_ends(run: Finished, opened: Run) -> None:
    assert opened.config == run.config
    again = evaluate(opened.lm, [Arm("pruned", opened.suite, "pruned")], opened.heldout)
    assert {key: run.metrics[key] for key in again} == again


def test_the_inputs_of_a_prediction_are_products_with_its_column_of_the_unembedding(opened: Run) -> None:
    suite, paths = opened.suite, opened.lm.paths
    heldout = opened.windows[1].tokens.flatten().tolist()
    seen = set()
    for token, _ in Counter(heldout).most_common(20):
        inputs = suite.inputs("unembed", token)
        sizes = [abs(one.weight) for one in inputs]
        assert sizes == sorted(sizes, reverse=True)
        for site, feature, weight in inputs:
            if site == SOURCE:
                assert suite.source is not None
                written = suite.source.rows_written[feature] - suite.source.writes.centre
            else:
                written = suite[site].decoder.W[feature].detach() * suite[site].writes.scale
            assert weight == pytest.approx(float(paths.W_U[:, token] @ written), rel=1e-4, abs=1e-6)
            seen.add(site)
    assert {SOURCE, Site.parse("1.mlp")} <= seen
    assert torch.isfinite(suite(opened.lm.trace("ban kolo ris"), mode="pruned").logits).all()
