"""What the analysis of a run tells of its sites as wholes; one that a number is missing from shows a dash."""

from collections.abc import Mapping
from typing import Any

from scae.arms import ARMS, RESULT
from scae.report.analysis_files import Analysis
from scae.report.grid import Grid, Row, number
from scae.report.pages import blocks
from scae.report.pages.blocks import Block

RANDOM = next(arm for arm in ARMS if arm.key == "random")
FIT = (
    ("L0", "l0", 1),
    ("L1", "l1", 2),
    ("FVU", "fvu", 3),
    ("expl. var.", "explained_variance", 3),
    ("cosine", "cosine", 3),
    ("MSE", "mse", 4),
)
DEAD = (("never fired", "never_fired"), ("plain only", "plain_only"), ("no input", "no_input"))
DEAD_MEANING = (
    "Of the features, on this text. Never fired: in no pass. Plain only: fires in the plain pass and not in the pruned "
    "one. No input: fires, without any incoming connection."
)
DENSITY = "Density: how many features fire on what share of the tokens (log10)."
ABLATION = (
    "Cross-entropy above the model's ({clean} nats), in nats per token, where what a site stands for is replaced in "
    "the live model by zero, by its mean, by its reconstruction; one site at a time, and all at once."
)
FAITHFUL = (
    "An upstream feature is changed in the model itself, by adding its decoder row, and the change of the downstream "
    "pre-activation compared with what the connection foretells. Rank: rank correlation over the connections. R²: "
    "share of the variance that is foretold. Slope: measured over foretold; 1 where both agree. Beside it the same for "
    "connections drawn at random. Moved: by how much the downstream pre-activation changed, on average."
)
SCALAR = (
    "KL to the model while only the n most important connections are kept. Its mean over n is ruled by the larger half "
    "of the connections; in its mean over log n every doubling counts the same. Smaller is more faithful."
)


def feature_blocks(analysis: Analysis) -> list[Block | None]:
    """Density, dead features, how well each site is fitted, and how far the passes agree."""
    sites = [analysis.note(site) for site in analysis.sites]
    densities = [_density(site, analysis.passes) for site in sites]
    return [
        blocks.table(_dead(analysis, sites), "Features that do not fire, by class"),
        blocks.text(DEAD_MEANING, faint=True),
        blocks.heading("Density by site"),
        blocks.text(DENSITY, faint=True),
        blocks.row(densities),
        blocks.table(_fit(analysis, sites), "Fit of each site"),
    ]


def _density(site: Mapping[str, Any], passes: tuple[str, ...]) -> Block | None:
    density = site.get("density") or {}
    counts = {mode: density[mode] for mode in passes if mode in density}
    return blocks.bars(str(site["site"]), density["edges"], counts, x_title="log10 rate") if counts else None


def _dead(analysis: Analysis, sites: list[dict[str, Any]]) -> Grid | None:
    last = analysis.passes[-1]
    agreement = analysis.summary.get("agreement") or {}
    rows = []
    for site in sites:
        told = site.get(last) or {}
        counts = [told.get(key) for _, key in DEAD]
        own = agreement.get(site["site"]) or {}
        cells = (
            str(site["site"]),
            number(site["features"], 0),
            *(number(count, 0) for count in counts),
            number(own.get("mean_correlation")),
            number(own.get("mean_jaccard")),
        )
        rows.append(Row(cells=cells))
    headers = ("site", "features", *(name for name, _ in DEAD), "agreement, correlation", "agreement, Jaccard")
    return Grid(headers=headers, rows=tuple(rows)).without_empty_columns() if rows else None


def _fit(analysis: Analysis, sites: list[dict[str, Any]]) -> Grid | None:
    rows = []
    for site in sites:
        for mode in analysis.passes:
            told = site.get(mode) or {}
            numbers = (number(told.get(key), digits) for _, key, digits in FIT)
            rows.append(Row(cells=(str(site["site"]), mode, *numbers), ends=mode == analysis.passes[-1]))
    headers = ("site", "pass", *(name for name, _, _ in FIT))
    return Grid(headers=headers, rows=tuple(rows), left=2).without_empty_columns() if rows else None


def ablation_blocks(analysis: Analysis) -> list[Block | None]:
    study = analysis.summary.get("ablation")
    if not study:
        return []
    kinds = ("zero", "mean", "reconstruction")
    rows = [_ablated(site, told, kinds) for site, told in (study.get("sites") or {}).items()]
    if study.get("all"):
        rows.append(_ablated("all", study["all"], kinds, strong=True))
    grid = Grid(headers=("site", *kinds), rows=tuple(rows))
    return [blocks.text(ABLATION.format(clean=number(study.get("clean")))), blocks.table(grid)]


def _ablated(name: str, told: Mapping[str, float], kinds: tuple[str, ...], *, strong: bool = False) -> Row:
    return Row(cells=(name, *(number(told.get(kind), sign=True) for kind in kinds)), strong=strong)


def faithfulness_blocks(analysis: Analysis) -> list[Block | None]:
    """Of the pairs of sites, each beside the random twin; then of circuits of growing size."""
    pairs = _pairs(analysis.summary.get("faithfulness"), analysis.summary.get("faithfulness_random"))
    found: list[Block | None] = [blocks.text(FAITHFUL), blocks.table(pairs)] if pairs is not None else []
    return [*found, *_circuits(analysis.summary.get("scalar") or {})]


def _pairs(kept: list[dict[str, Any]] | None, random: list[dict[str, Any]] | None) -> Grid | None:
    if not kept:
        return None
    twin = {(one["up"], one["down"]): one for one in random or []}
    rows = []
    for one in kept:
        beside = twin.get((one["up"], one["down"]), {})
        numbers = (number(found.get(key)) for key in ("rank", "r2", "slope", "live_size") for found in (one, beside))
        rows.append(Row(cells=(str(one["up"]), str(one["down"]), number(one.get("edges"), 0), *numbers)))
    headers = (
        "from",
        "to",
        "edges",
        *(f"{name}{of}" for name in ("rank", "R²", "slope", "moved") for of in ("", ", random")),
    )
    return Grid(headers=headers, rows=tuple(rows), left=2).without_empty_columns()


def _circuits(scalar: Mapping[str, Any]) -> list[Block | None]:
    known = {name: told for name, told in scalar.items() if told and told.get("n")}
    if not known:
        return []
    x = sorted({float(n) for told in known.values() for n in told["n"]})
    lines = []
    for name, told in known.items():
        at = dict(zip(map(float, told["n"]), told["kl"], strict=True))
        random = name == "random"
        arm = RANDOM if random else RESULT
        y = [at.get(n) for n in x]
        lines.append(blocks.line(name, y, colour=arm.colour, marker=arm.marker, dashed=random, strong=not random))
    rows = [
        Row(cells=(name, *(number(told.get(key)) for key in ("absolute", "relative", "log_area"))))
        for name, told in known.items()
    ]
    areas = Grid(headers=("connections", "area, nats x edges", "mean over n", "mean over log n"), rows=tuple(rows))
    # n spans decades and begins with 0: the circuits at their places in the row of sizes
    names = [f"{n:,.0f}" for n in x]
    title = "KL to the model with the n most important connections"
    plot = blocks.plot(title, range(len(x)), lines, names=names, x_title="n", zero=True)
    return [blocks.text(SCALAR), plot, blocks.table(areas.without_empty_columns())]
