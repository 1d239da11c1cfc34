"""Which upstream features each feature reads from: the edge list of a suite.

The features of a suite are numbered on from site to site, in the order of the sites. The connections into a site are a
CSR matrix over those numbers: `crow[i]` is where the inputs of its feature i begin in `up`; inputs are sorted, unique
and belong to sites that precede it.

The words, from here up to the passes:

    connections      which upstream features each feature reads from: this data
    inputs           the connections into one feature, or of one site's features
    upstream         the sites that a site may read from, and their features
    virtual weight   what a connection weighs (`scae.suite.virtual_weights`)
    edges            connections in the order in which the kernels walk them (`scae.kernels.edges`)
    arrivals         what comes along them to the features of a site, in one batch (`scae.kernels.arrivals`)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from scae.core.typing import Int, Tensor
from scae.core.whole_files import write
from scae.kernels.code import rows_of
from scae.lm.modules import Levels
from scae.sites import Site, in_order

FORMAT = 2


@dataclass(frozen=True)
class Layout:
    """The sites of a suite in order, the number of features of each, and which of them it reads from.

    reads: for each site, how many sites of the order it reads from, which are always its first: those at modules that
    the model computes before.
    """

    sites: tuple[Site, ...]
    sizes: tuple[int, ...]
    reads: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError(f"sites must be unique, got {', '.join(map(str, self.sites))}")
        if not len(self.sites) == len(self.sizes) == len(self.reads):
            raise ValueError(f"as many sizes and reads as sites are needed, got {self}")
        if any(not 0 <= count <= number for number, count in enumerate(self.reads)):
            raise ValueError(f"a site reads from sites before it alone, got reads={self.reads}")

    @classmethod
    def of(cls, sizes: Mapping[Site, int], levels: Levels) -> "Layout":
        """sizes: the number of features by site, in any order; levels: of the model that they stand in."""
        sites: list[Site] = []
        reads: list[int] = []
        for level in in_order(sizes, levels):
            reads += [len(sites)] * len(level)
            sites += level
        return cls(tuple(sites), tuple(sizes[site] for site in sites), tuple(reads))

    def offset(self, site: Site) -> int:
        """The number of the first feature of `site`."""
        return sum(self.sizes[: self.sites.index(site)])

    def size(self, site: Site) -> int:
        return self.sizes[self.sites.index(site)]

    def upstream(self, site: Site) -> tuple[Site, ...]:
        """The sites that `site` reads from."""
        return self.sites[: self.reads[self.sites.index(site)]]

    def n_upstream(self, site: Site) -> int:
        """The number of upstream features of `site`."""
        return sum(self.size(other) for other in self.upstream(site))

    def locate(self, feature: int) -> tuple[Site, int]:
        """The site of a suite-wide feature number, and its number there."""
        for site, size in zip(self.sites, self.sizes, strict=True):
            if feature < size:
                return site, feature
            feature -= size
        raise ValueError(f"feature {feature + sum(self.sizes)} of a suite of {sum(self.sizes)} features")


@dataclass(frozen=True)
class Inputs:
    """The connections into one site in CSR form: `crow` `[down + 1]`, `up` `[edge]`, both int32."""

    crow: Int[Tensor, " down_plus_1"]
    up: Int[Tensor, " edge"]

    @classmethod
    def from_pairs(cls, down: Int[Tensor, " edge"], up: Int[Tensor, " edge"], n_down: int) -> "Inputs":
        """Sorted by downstream, then upstream feature; pairs must be unique."""
        span = int(up.max()) + 1 if len(up) else 1
        order = torch.argsort(down.long() * span + up.long())
        counts = torch.bincount(down.long(), minlength=n_down)
        crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(crow.to(torch.int32), up[order].to(torch.int32))

    @property
    def down(self) -> Int[Tensor, " edge"]:
        return rows_of(self.crow, len(self.up))

    def __len__(self) -> int:
        return len(self.up)


class Connections:
    """The connections of a suite, or all of them (`Connections.complete`), which are not stored one by one."""

    def __init__(self, layout: Layout, inputs: dict[Site, Inputs] | None) -> None:
        """inputs: by site, sites without one have no connections; None: every connection there can be."""
        self.layout = layout
        self.is_complete = inputs is None
        self._inputs = dict(inputs or {})
        self.validate()

    @classmethod
    def complete(cls, layout: Layout) -> "Connections":
        return cls(layout, None)

    @classmethod
    def none(cls, layout: Layout) -> "Connections":
        return cls(layout, {})

    def __getitem__(self, site: Site) -> Inputs:
        """The edge list of a site; of complete connections too, but then it is as large as it sounds."""
        if self.is_complete:
            n_up, n_down = self.layout.n_upstream(site), self.layout.size(site)
            return Inputs(
                torch.arange(0, n_down * n_up + 1, max(n_up, 1), dtype=torch.int32)[: n_down + 1]
                if n_up
                else torch.zeros(n_down + 1, dtype=torch.int32),
                torch.arange(n_up, dtype=torch.int32).repeat(n_down),
            )
        if site in self._inputs:
            return self._inputs[site]
        empty = torch.zeros(self.layout.size(site) + 1, dtype=torch.int32)
        return Inputs(empty, empty[:0])

    def __len__(self) -> int:
        """The number of connections."""
        if self.is_complete:
            return sum(self.layout.size(site) * self.layout.n_upstream(site) for site in self.layout.sites)
        return sum(len(inputs) for inputs in self._inputs.values())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Connections):
            return NotImplemented
        return (
            self.layout == other.layout
            and self.is_complete == other.is_complete
            and all(
                torch.equal(self[site].crow, other[site].crow) and torch.equal(self[site].up, other[site].up)
                for site in self.layout.sites
                if not self.is_complete
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def validate(self) -> None:
        """Raises ValueError naming the site and what is wrong: shape, range, order, duplicates, causality."""
        for site, inputs in self._inputs.items():
            if site not in self.layout.sites:
                raise ValueError(f"connections into {site}, which is no site of the suite: {self.layout.sites}")
            crow, up = inputs.crow, inputs.up
            size, n_up = self.layout.size(site), self.layout.n_upstream(site)
            if len(crow) != size + 1 or crow[0] != 0 or crow[-1] != len(up) or (crow.diff() < 0).any():
                raise ValueError(
                    f"connections into {site}: row pointers must rise from 0 to the {len(up)} edges in {size} rows, "
                    f"got {len(crow) - 1} rows ending at {int(crow[-1])}"
                )
            if len(up) and (int(up.min()) < 0 or int(up.max()) >= n_up):
                raise ValueError(
                    f"connections into {site}: upstream features must lie in 0..{n_up - 1}, those of the sites that it "
                    f"reads from ({', '.join(map(str, self.layout.upstream(site))) or 'none'}); "
                    f"got {int(up.min())}..{int(up.max())}"
                )
            same_row = inputs.down.diff() == 0
            if (same_row & (up.diff() <= 0)).any():
                raise ValueError(f"connections into {site}: the inputs of a feature must be sorted and unique")

    def save(self, path: Path) -> None:
        """One .safetensors: `<site>.crow`, `<site>.up`, and the layout in its metadata."""
        tensors = {}
        for site in () if self.is_complete else self.layout.sites:
            tensors[f"{site}.crow"], tensors[f"{site}.up"] = self[site].crow.cpu(), self[site].up.cpu()
        layout = {
            "format": FORMAT,
            "sites": [str(site) for site in self.layout.sites],
            "sizes": list(self.layout.sizes),
            "reads": list(self.layout.reads),
            "complete": self.is_complete,
        }
        write(path, partial(save_file, tensors, metadata={"scae.connections": json.dumps(layout)}))

    @classmethod
    def load(cls, path: Path) -> "Connections":
        """Raises ValueError naming the file where it is no valid connections file."""
        try:
            with safe_open(path, framework="pt") as file:
                meta = json.loads((file.metadata() or {})["scae.connections"])
                if meta.get("format") != FORMAT:
                    raise ValueError(f"format {meta.get('format', 1)}, this version reads {FORMAT}")
                layout = Layout(tuple(map(Site.parse, meta["sites"])), tuple(meta["sizes"]), tuple(meta["reads"]))
                if meta["complete"]:
                    return cls.complete(layout)
                return cls(
                    layout,
                    {s: Inputs(_vector(file, f"{s}.crow"), _vector(file, f"{s}.up")) for s in layout.sites},
                )
        except Exception as error:  # whatever a damaged file breaks on, the reader of the message needs its name
            raise ValueError(f"{path} is no connections file of scae: {error}") from error


def _vector(file: safe_open, name: str) -> Int[Tensor, " _"]:
    """A tensor of a connections file; raises ValueError where it is no vector of int32."""
    found = file.get_tensor(name)
    if found.dtype != torch.int32 or found.ndim != 1:
        raise ValueError(f"{name}: {found.dtype} of shape {list(found.shape)}; needed: a vector of int32")
    return found
