"""What `report.html` shows of one run."""

from collections.abc import Iterator
from typing import Any

from scae.report.alone import MEANING as ALONE
from scae.report.alone import alone_grid
from scae.report.analysis_files import Analysis
from scae.report.arms import present, result
from scae.report.arms_grid import arms_grid, compares_arms, site_mean, sites
from scae.report.faithful import MEANING as FAITHFUL
from scae.report.faithful import TITLE, faithful_grid
from scae.report.files import Job, Metrics
from scae.report.grid import MISSING, number
from scae.report.pages import blocks
from scae.report.pages.blocks import Block
from scae.report.pages.circuits import circuit_links
from scae.report.pages.connections import connection_blocks
from scae.report.pages.curves import curve_blocks
from scae.report.pages.looking import ablation_blocks, faithfulness_blocks, feature_blocks
from scae.report.places import places
from scae.report.pursuit import MEANING as PURSUIT
from scae.report.pursuit import pursuit_grid
from scae.report.remarks import remarks
from scae.report.stages_grid import FEATURES, costs_grid, trained_grid
from scae.report.words import asked, ceiling, columns


def run_overview(job: Job, analysis: Analysis | None, problem: str, rebuild: str) -> dict[str, Any]:
    """The content of the page. problem: why there is no analysis; rebuild: the command that makes this page."""
    found = [section for section in _sections(job, analysis, problem, rebuild) if section is not None]
    pages = [("Features", "features.html")] if analysis is not None else []
    return {"kind": "run", "name": job.directory.resolve().name, "asked": asked(job), "pages": pages, "sections": found}


def _sections(job: Job, analysis: Analysis | None, problem: str, rebuild: str) -> Iterator[Block | None]:
    metrics = job.metrics
    yield blocks.section("summary", "Summary", [_facts(metrics), blocks.items(remarks(metrics), notice=True)])
    if compares_arms(metrics):
        yield blocks.section("arms", "Arms", _arms(metrics))
        yield blocks.section("fvu", "FVU by site", _fvu(metrics))
    looking: list[Block | None] = [*circuit_links(job.directory)]
    if analysis is None:
        looking.append(blocks.text(problem))
    else:
        count = sum(analysis.n_features(site) for site in analysis.sites)
        note = f"{count:,} features of {len(analysis.sites)} sites, on {analysis.n_live:,} tokens of held-out text"
        looking.insert(0, blocks.links([("Features", "features.html", note)]))
    yield blocks.section("look", "Look inside", looking)
    yield blocks.section("connections", "Connections", connection_blocks(job, analysis))
    if analysis is not None:
        yield blocks.section("features", "Features", feature_blocks(analysis))
        yield blocks.section("ablation", "Ablation", ablation_blocks(analysis))
        whole = faithful_grid(metrics)
        summed = [] if whole is None else [blocks.table(whole), blocks.text(FAITHFUL, faint=True)]
        yield blocks.section("faithfulness", TITLE, [*summed, *faithfulness_blocks(analysis)])
    searched = pursuit_grid(metrics)
    if searched is not None:
        yield blocks.section("search", "Codes that are searched for", [blocks.text(PURSUIT), blocks.table(searched)])
    alone = alone_grid(metrics)
    if alone is not None:
        yield blocks.section("alone", "Each dictionary alone", [blocks.text(ALONE), blocks.table(alone)])
    trained = trained_grid(job)
    after = [] if trained is None else [blocks.table(trained), blocks.text(FEATURES, faint=True)]
    yield blocks.section("training", "Training", [*curve_blocks(job), *after])
    yield blocks.section("costs", "Time and tokens", [blocks.table(costs_grid(job))])
    again = blocks.text(f"Rebuild these pages: `{rebuild}`", faint=True)
    yield blocks.section("places", "Where things lie", [_places(job), again])


def _facts(metrics: Metrics) -> Block | None:
    """The result in a few numbers."""
    arm = result(metrics)
    found = [("Language model", number(metrics.get("lm/ce")), "CE, nats per token")]
    difference = number(metrics.get(f"{arm.key}/ce_diff"), sign=True)
    found.append((arm.label.capitalize(), number(metrics.get(f"{arm.key}/ce")), f"CE, {difference} on the model"))
    found.append(("CE recovered", _percent(metrics.get(f"{arm.key}/ce_recovered")), "of zero ablation to the model"))
    found.append(("FVU", number(metrics.get(f"{arm.key}/fvu_mean")), "mean over sites"))
    found.append(("L0", number(site_mean(metrics, arm, "l0"), 1), "features a token and site"))
    found.append(("Connections", number(metrics.get("connectivity/in_degree_mean"), 1), "into a feature, mean"))
    found.append(("Dead", _percent(site_mean(metrics, arm, "dead")), "of the features, on held-out text"))
    return blocks.facts(fact for fact in found if fact[1] != MISSING)


def _arms(metrics: Metrics) -> list[Block | None]:
    grid = arms_grid(metrics)
    meanings = blocks.items(f"`{arm.label}`: {arm.meaning}." for arm in present(metrics))
    explained = blocks.folded("What the columns and the arms are", [blocks.text(columns(grid)), meanings])
    return [blocks.table(grid), *(blocks.text(one) for one in ceiling(metrics)), explained]


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{number(share, 1, scale=100.0)} %"


def _fvu(metrics: Metrics) -> list[Block | None]:
    order = sites(metrics, "fvu")
    lines = [blocks.arm_line(arm, [metrics.get(f"{arm.key}/fvu/{site}") for site in order]) for arm in present(metrics)]
    title = "Fraction of variance unexplained; 1 = predicting the mean"
    return [blocks.plot(title, range(len(order)), lines, names=order, y_title="FVU", zero=True)]


def _places(job: Job) -> Block | None:
    listed = []
    for place in places(job):
        if place.name.endswith(".html"):
            continue  # this page, and one that it links to elsewhere
        what = "the same as text" if place.name == "report.md" else place.what
        note = f"{place.stage}{'' if place.there else ', no longer there'}" if place.stage else what
        listed.append((place.name, place.href if place.there else "", note))
    return blocks.links(listed)


def how_to_analyse(job: Job) -> str:
    """The command that makes what is missing, in this directory; what is there already is reused."""
    told = [f"{key}={value}" for key, value in job.overrides.items() if key not in ("stages", "hydra.run.dir")]
    command = " ".join(["python train.py", *told, "stages=[evaluate,analyze]", f"hydra.run.dir={job.directory}"])
    return f"There are no pages of features yet, as this run has not been analysed. To do so: `{command}`"
