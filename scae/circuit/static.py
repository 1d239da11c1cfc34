"""The connections around a feature, whatever the text: its inputs and outputs, theirs, and so on for some steps.

Links are virtual weights, heads summed (`scae.suite.virtual_weights`): what a connection adds to a pre-activation for
each unit of the upstream activation, before it is divided by the scale of the stream and moved by a pattern. With
`sites.embed` and `sites.unembed` tokens and next tokens are among the ends, as token and as logit nodes.
"""

from collections.abc import Iterable

import torch

from scae.attribution import Kind, Links, Nodes, demand_connections
from scae.circuit.graph import Circuit
from scae.circuit.prompt import model_name
from scae.circuit.record import About
from scae.circuit.words import Words, labels_of
from scae.experiment.opened import Run
from scae.sites import SINK, SOURCE, Site
from scae.suite import Suite

STRONGEST = 16

Feature = tuple[Site, int]
Edge = tuple[Feature, Feature, float]


def around(run: Run, feature: str, *, steps: int = 1, strongest: int | None = STRONGEST) -> Circuit:
    """The connections of a feature, as in `"2.mlp/17"`: `steps` back from it and `steps` forth.

    strongest: of each feature on the way no more than so many inputs, or outputs, by the size of the virtual weight;
    None: all of them. Raises ValueError where there is no such feature, or no connections.
    """
    suite = run.suite
    demand_connections(suite)
    if steps < 1:
        raise ValueError(f"steps={steps}: at least one step is needed")
    if strongest is not None and strongest < 1:
        raise ValueError(f"strongest={strongest}: at least one connection of a feature is needed")
    root = parse_feature(suite, feature)
    edges = [*_walk(suite, root, steps, strongest, forth=False), *_walk(suite, root, steps, strongest, forth=True)]
    about = About(
        kind="global",
        subject=feature,
        run=run.folder.absolute().name,
        model=model_name(run),
        sites=tuple(map(str, suite.layout.sites)),
        n_layers=run.lm.paths.n_layers,
        weight="virtual weight",
    )
    nodes, links = _graph(suite, root, edges)
    return Circuit.whole(about, Words(suite, labels_of(run.folder)), (feature,), nodes, links)


def parse_feature(suite: Suite, text: str) -> Feature:
    """Raises ValueError where the suite has no such feature."""
    name, _, number = text.rpartition("/")
    if not name or not number.isdigit():
        raise ValueError(f"'{text}' is no feature: write SITE/FEATURE, as in '{suite.sites[-1]}/17'")
    site = Site.parse(name)
    if site not in suite.layout.sites:
        raise ValueError(f"the suite has no site {site}, but {', '.join(map(str, suite.layout.sites))}")
    size = suite.layout.size(site)
    if int(number) >= size:
        raise ValueError(f"feature {number} of {site}, which has features 0..{size - 1}")
    return site, int(number)


def _walk(suite: Suite, root: Feature, steps: int, strongest: int | None, *, forth: bool) -> Iterable[Edge]:
    """Breadth first, every feature once."""
    seen, edge_of = {root}, [root]
    for _ in range(steps):
        found = []
        for one in edge_of:
            edges = _outputs(suite, one) if forth else _inputs(suite, one)
            found += sorted(edges, key=lambda edge: -abs(edge[2]))[:strongest]
        yield from found
        ends = [edge[1] if forth else edge[0] for edge in found]
        edge_of = [end for end in dict.fromkeys(ends) if end not in seen]
        seen |= set(edge_of)


def _inputs(suite: Suite, feature: Feature) -> list[Edge]:
    site, number = feature
    if site == SOURCE:
        return []
    return [((one.site, one.feature), feature, one.weight) for one in suite.inputs(site, number)]


def _outputs(suite: Suite, feature: Feature) -> list[Edge]:
    up_site, number = feature
    counted = suite.layout.offset(up_site) + number
    found: list[Edge] = []
    for site in suite.layout.sites:
        if up_site not in suite.layout.upstream(site):
            continue
        incoming = suite.connections[site]
        down = incoming.down[incoming.up == counted].long()
        weights = suite.virtual.between(up_site, torch.full_like(down, number), site, down)
        found += [(feature, (site, one), weight) for one, weight in zip(down.tolist(), weights.tolist(), strict=True)]
    return found


def _graph(suite: Suite, root: Feature, edges: list[Edge]) -> tuple[Nodes, Links]:
    order = {site: number for number, site in enumerate(suite.layout.sites)}
    ends = {root} | {end for edge in edges for end in edge[:2]}
    features = sorted(ends, key=lambda one: (order[one[0]], one[1]))
    number = {one: index for index, one in enumerate(features)}
    like = torch.zeros((), dtype=suite.lm.paths.W_U.dtype)
    parts = []
    for site in dict.fromkeys(site for site, _ in features):
        own = torch.tensor([feature for at, feature in features if at == site])
        kind: Kind = {SOURCE: "token", SINK: "logit"}.get(site, "feature")  # type: ignore[assignment]
        place = order[site] if kind == "feature" else -1
        level = order[site]
        parts.append(Nodes.make(kind, torch.zeros_like(own), level=level, place=place, number=own, like=like))
    links = Links(
        torch.tensor([number[edge[0]] for edge in edges], dtype=torch.long),
        torch.tensor([number[edge[1]] for edge in edges], dtype=torch.long),
        torch.tensor([edge[2] for edge in edges], dtype=like.dtype),
    )
    return Nodes.joined(tuple(map(str, suite.layout.sites)), parts), links
