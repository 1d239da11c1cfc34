"""Which features of an analysis are asked about."""

from collections.abc import Iterator, Sequence

import numpy as np

from scae.label.failures import LabelError
from scae.label.questions import Feature, prepare
from scae.label.snippets import Firing, Text
from scae.report.analysis_files import ALIVE, Analysis

RANKS = ("rate", "max")


def named(analysis: Analysis, names: Sequence[str]) -> list[tuple[str, int]]:
    """Those of `2.mlp/17`, checked: LabelError where one is not there or never fires."""
    found = []
    for name in names:
        site, _, number = name.rpartition("/")
        if site not in analysis.sites or not number.isascii() or not number.isdigit():
            raise LabelError(
                f"--features {name}: no feature, allowed: SITE/NUMBER with a site of {', '.join(analysis.sites)}"
            )
        if int(number) >= analysis.n_features(site):
            raise LabelError(f"--features {name}: {site} has features 0 to {analysis.n_features(site) - 1}")
        if _pass_of(analysis, site, int(number)) is None:
            raise LabelError(f"--features {name}: it never fires, and so has no examples")
        found.append((site, int(number)))
    return list(dict.fromkeys(found))


def best(analysis: Analysis, sites: Sequence[str], count: int, rank: str) -> list[tuple[str, int]]:
    """The first `count` features of each site that are alive, in the last of the passes.

    rank: "rate", the share of tokens where it fires, times the agreement of the two passes where there are two; or
    "max", its largest activation. Of equal ones, the lower number comes first.
    """
    found = []
    for site in sites:
        tables = analysis.features(site)
        score = np.nan_to_num(tables[rank][-1].astype(np.float64), nan=-np.inf)
        if rank == "rate" and "agreement" in tables:
            score = score * np.nan_to_num(tables["agreement"], nan=0.0)
        alive = np.flatnonzero((tables["state"] == ALIVE) & (tables["rate"][-1] > 0))
        first = alive[np.argsort(-score[alive], kind="stable")][:count]
        found += [(site, number) for number in first.tolist()]
    return found


def sites_of(analysis: Analysis, names: Sequence[str] | None) -> tuple[str, ...]:
    """All of an analysis, or those named; LabelError where one is not there."""
    for name in names or ():
        if name not in analysis.sites:
            raise LabelError(f"--sites {name}: no site of the analysis, allowed: {', '.join(analysis.sites)}")
    return analysis.sites if names is None else tuple(dict.fromkeys(names))


def prepared(analysis: Analysis, features: Sequence[tuple[str, int]], *, examples: int, seed: int) -> Iterator[Feature]:
    """What each is shown with and asked about, from the last pass in which it fires."""
    tokens = analysis.tokens
    text = Text(
        ids=tokens["id"],
        documents=tokens["document"],
        windows=tokens["window"],
        live=tokens["live"],
        vocabulary=analysis.vocabulary,
    )
    for site, number in features:
        run_pass = _pass_of(analysis, site, number)
        assert run_pass is not None, f"{site}/{number} never fires"
        at = analysis.passes.index(run_pass)
        firings = analysis.tokens_of(site, number, run_pass)
        order = np.argsort(firings.token, kind="stable")
        tables = analysis.features(site)
        yield prepare(
            site=site,
            index=number,
            run_pass=run_pass,
            firing=Firing(text=text, tokens=firings.token[order], values=firings.value[order]),
            top=tables.columns("top", number, number + 1)[at, 0],
            bands=tables.columns("quantile", number, number + 1)[at, 0],
            examples=examples,
            seed=seed,
        )


def _pass_of(analysis: Analysis, site: str, number: int) -> str | None:
    rates = analysis.features(site).columns("rate", number, number + 1)[:, 0].tolist()
    firing = [run_pass for run_pass, rate in zip(analysis.passes, rates, strict=True) if rate > 0]
    return firing[-1] if firing else None
