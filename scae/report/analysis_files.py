"""The files of an analysis (the stage `analyze`): names, keys, and a reader. Torch-free: a page or a notebook needs
numpy alone, and of a file no more than it looks at is read.

    tokens.safetensors      id int32, document int32, position int32, window int32, live bool, all [n]
    vocabulary.json         [the text of every token of the vocabulary, as it reads inside text]
    codes/<pass>/<site>.safetensors
        token -> its features      crow int64 [n + 1], feature int32 [nnz], value float32 [nnz]; features ascending
        feature -> its tokens      feature_crow int64 [F + 1], token int32 [nnz], by_feature float32 [nnz]; values
                                   descending, of equal ones the earlier token first
    features/<site>.safetensors    what is known of each feature, `FEATURE`, `PRUNED`, `EDGES`, `BETWEEN`
    analysis.json                  what is known of the sites and of the whole, every number with its definition

n: positions, windows x context, the windows one after the other; what is no text (BOS, separator, padding) is there and
not live. A pass is one of analysis.json's "passes". A feature that is missing is -1, a number that is missing NaN.
Sites are numbered as in analysis.json's "sites", the embedding and the unembedding among them where they are sites
(kind embed, unembed): those have connections and neither codes nor numbers of their own.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

FORMAT = 1
ANALYSIS, TOKENS, VOCABULARY = "analysis.json", "tokens.safetensors", "vocabulary.json"
CODES, FEATURES = "codes", "features"
PLAIN, PRUNED_PASS = "plain", "pruned"
BINS, BANDS, DRAWN, LOGITS = 20, 4, 4, 10  # B, Q, M and K below
ALIVE, NEVER_FIRED, PLAIN_ONLY, NO_INPUT = 0, 1, 2, 3
"""The states of a feature: it fires; it never does, in any pass; in the plain pass alone; it fires, and although there
are sites upstream it has no incoming connection."""
ENDS = ("embed", "unembed")

Array = NDArray[Any]
Fields = Mapping[str, tuple[str, str]]
"""By name: dtype and axes. Axes: n tokens, F features, P passes, B bins, E examples, Q bands, M drawn from each, K
tokens of the vocabulary, S neighbours, e connections, p stored activations; `F+1` one more than F."""

TOKEN: Fields = {
    "id": ("I32", "n"),
    "document": ("I32", "n"),
    "position": ("I32", "n"),
    "window": ("I32", "n"),
    "live": ("BOOL", "n"),
}
CODE: Fields = {
    "crow": ("I64", "n+1"),
    "feature": ("I32", "p"),
    "value": ("F32", "p"),
    "feature_crow": ("I64", "F+1"),
    "token": ("I32", "p"),
    "by_feature": ("F32", "p"),
}
FEATURE: Fields = {
    "rate": ("F32", "P F"),
    "mean": ("F32", "P F"),
    "max": ("F32", "P F"),
    "histogram": ("I32", "P F B"),
    "top": ("I32", "P F E"),
    "top_value": ("F32", "P F E"),
    "quantile": ("I32", "P F Q M"),
    "quantile_value": ("F32", "P F Q M"),
    "promoted": ("I32", "F K"),
    "promoted_value": ("F32", "F K"),
    "suppressed": ("I32", "F K"),
    "suppressed_value": ("F32", "F K"),
    "state": ("I8", "F"),
}
PRUNED: Fields = {"agreement": ("F32", "F"), "jaccard": ("F32", "F")}
"""Where there are two passes."""
EDGES: Fields = {
    "_crow": ("I64", "F+1"),
    "_site": ("I16", "e"),
    "_feature": ("I32", "e"),
    "_weight": ("F32", "e"),
    "_mean": ("F32", "e"),
}
"""Behind `inputs` and `outputs`, where a suite is pruned and does not have all connections there can be."""
CONSTANT: Fields = {"inputs_constant": ("F32", "F"), "inputs_total": ("F32", "F")}
"""Beside `inputs`: the mean of what a pre-activation owes to no connection, and of all of it, over the same tokens."""
BETWEEN: Fields = {
    "similar_site": ("I16", "F S"),
    "similar_feature": ("I32", "F S"),
    "similar_cosine": ("F32", "F S"),
    "coactive_site": ("I16", "F S"),
    "coactive_feature": ("I32", "F S"),
    "coactive_jaccard": ("F32", "F S"),
    "coactive_correlation": ("F32", "F S"),
    "coactive_pmi": ("F32", "F S"),
    "cluster": ("I32", "F"),
}
"""Of features to each other."""


class AnalysisError(ValueError):
    """What is asked for cannot be read; the message is one line for the user."""


class Edge(NamedTuple):
    """One connection of a feature, seen from it: the feature at its other end, the virtual weight (heads summed) and
    the mean contribution to the pre-activation downstream over the tokens at which the downstream feature fires."""

    site: str
    feature: int
    weight: float
    mean: float


class Active(NamedTuple):
    """A feature that is active at a token."""

    site: str
    feature: int
    value: float


@dataclass(frozen=True)
class Firings:
    """The tokens at which a feature fires, strongest first, and its activation there."""

    token: Array
    value: Array

    def __len__(self) -> int:
        return len(self.token)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return zip(self.token.tolist(), self.value.tolist(), strict=True)


@dataclass(frozen=True)
class Context:
    """A token among its neighbours in the same window: their texts, at which place the token is, and which of them are
    text (live)."""

    token: int
    texts: tuple[str, ...]
    at: int
    live: tuple[bool, ...]

    def __str__(self) -> str:
        before, here, after = self.texts[: self.at], self.texts[self.at], self.texts[self.at + 1 :]
        return f"{''.join(before)}«{here}»{''.join(after)}"


@dataclass(frozen=True)
class Feature:
    """One feature: the rows of `features/<site>.safetensors` that belong to it, by name, and its connections."""

    site: str
    number: int
    rows: Mapping[str, Array]
    inputs: tuple[Edge, ...] | None
    outputs: tuple[Edge, ...] | None

    def __getitem__(self, name: str) -> Array:
        return self.rows[name]


class Tables:
    """One .safetensors of an analysis, whose header is checked and whose tensors are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise AnalysisError(f"{path} is missing: the analysis it belongs to is damaged")
        try:
            self._file = safe_open(path, framework="numpy")
            self.shapes = {name: tuple(self._file.get_slice(name).get_shape()) for name in self._file.keys()}  # noqa: SIM118
            self.dtypes = {name: self._file.get_slice(name).get_dtype() for name in self.shapes}
        except (SafetensorError, OSError) as error:
            raise AnalysisError(f"{path} cannot be read as safetensors: {error}") from error

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __getitem__(self, name: str) -> Array:
        """The whole of a tensor."""
        self._demand(name)
        return self._file.get_tensor(name)

    def rows(self, name: str, start: int, stop: int) -> Array:
        """A run of its rows."""
        self._demand(name)
        if stop <= start:  # which safetensors refuses where a tensor ends there
            return self._file.get_tensor(name)[:0] if not self.shapes[name][0] else self.rows(name, 0, 1)[:0]
        return self._file.get_slice(name)[start:stop]

    def columns(self, name: str, start: int, stop: int) -> Array:
        """A run along the second axis, of all rows."""
        self._demand(name)
        return self._file.get_slice(name)[:, start:stop]

    def check(self, fields: Fields, sizes: dict[str, int], *, prefix: str = "") -> None:
        """Raises AnalysisError where a tensor is missing or is none of this kind; learns the sizes it does not know."""
        for key, (dtype, axes) in fields.items():
            name = prefix + key
            self._demand(name)
            shape, wanted = self.shapes[name], axes.split()
            fits = self.dtypes[name] == dtype and len(shape) == len(wanted)
            for axis, size in zip(wanted, shape, strict=False):
                base, more = (axis[:-2], 1) if axis.endswith("+1") else (axis, 0)
                fits = fits and sizes.setdefault(base, size - more) == size - more
            if not fits:
                known = {axis: sizes[axis.removesuffix("+1")] for axis in wanted if axis.removesuffix("+1") in sizes}
                raise AnalysisError(
                    f"{self.path}: {name} is {self.dtypes[name]} of shape {list(shape)}; needed: {dtype} of [{axes}] "
                    f"with {known}"
                )

    def _demand(self, name: str) -> None:
        if name not in self.shapes:
            raise AnalysisError(f"{self.path} holds no {name}; it holds {', '.join(sorted(self.shapes)) or 'nothing'}")


class Analysis:
    """What a stage `analyze` has written into a folder.

    Both look-ups: `tokens_of` a feature, each with its `context`; `features_at` a token. Raises AnalysisError, naming
    the file, where something is damaged or is no analysis of this version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.summary: dict[str, Any] = _object(self.folder / ANALYSIS)
        found = self.summary.get("format")
        if found != FORMAT:
            raise AnalysisError(f"{self.folder / ANALYSIS}: format {found}, this version reads {FORMAT}")
        try:
            self.passes: tuple[str, ...] = tuple(self.summary["passes"])
            self.n_tokens, self.n_live = int(self.summary["n_tokens"]), int(self.summary["n_live"])
            self.context_size = int(self.summary["context"])
            self.site_names: tuple[str, ...] = tuple(str(one["site"]) for one in self.summary["sites"])
            self._sizes = {str(one["site"]): int(one["features"]) for one in self.summary["sites"]}
        except (LookupError, TypeError, ValueError) as error:
            raise AnalysisError(f"{self.folder / ANALYSIS} is damaged ({type(error).__name__}: {error})") from error
        self._codes: dict[tuple[str, str], Tables] = {}
        self._features: dict[str, Tables] = {}

    def __repr__(self) -> str:
        return f"Analysis({str(self.folder)!r})"

    @property
    def sites(self) -> tuple[str, ...]:
        """Those that have features with activations: all but the embedding and the unembedding."""
        return tuple(site for site in self.site_names if site not in ENDS)

    def n_features(self, site: str) -> int:
        return self._sizes[self._known(site)]

    def note(self, site: str) -> dict[str, Any]:
        """What analysis.json says of a site."""
        return self.summary["sites"][self.site_names.index(self._known(site))]

    @cached_property
    def tokens(self) -> dict[str, Array]:
        """By name, of every position: id, document, position, window, live."""
        tables = Tables(self.folder / TOKENS)
        tables.check(TOKEN, {"n": self.n_tokens})
        return {name: tables[name] for name in TOKEN}

    @cached_property
    def vocabulary(self) -> list[str]:
        """The text of every token, as it reads inside text."""
        path = self.folder / VOCABULARY
        found = _json(path)
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise AnalysisError(f"{path} holds no list of texts")
        return found

    def codes(self, site: str, mode: str | None = None) -> Tables:
        """The activations of a site in a pass, `CODE`; without one, in the last of the passes."""
        mode = self._pass(mode)
        if self._known(site) in ENDS:
            raise AnalysisError(f"{site} has no stored activations: it is an end of the stream, not a dictionary")
        if (mode, site) not in self._codes:
            tables = Tables(self.folder / CODES / mode / f"{site}.safetensors")
            tables.check(CODE, {"n": self.n_tokens, "F": self._sizes[site]})
            self._codes[mode, site] = tables
        return self._codes[mode, site]

    def features(self, site: str) -> Tables:
        """What is known of the features of a site: `FEATURE`, `PRUNED` and so on, those that there are."""
        if self._known(site) not in self._features:
            tables = Tables(self.folder / FEATURES / f"{site}.safetensors")
            sizes = {"F": self._sizes[site], "P": len(self.passes)}
            if site not in ENDS:
                tables.check(FEATURE, sizes)
                if len(self.passes) > 1:
                    tables.check(PRUNED, sizes)
            for side in ("inputs", "outputs"):
                if f"{side}_crow" in tables:
                    tables.check(EDGES, {"F": self._sizes[site]}, prefix=side)
            if "inputs_constant" in tables:
                tables.check(CONSTANT, sizes)
            if "similar_site" in tables:
                tables.check(BETWEEN, sizes)
            self._features[site] = tables
        return self._features[site]

    def feature(self, site: str, number: int) -> Feature:
        """All that is known of one feature."""
        tables = self.features(site)
        self._demand_feature(site, number)
        rows = {}
        for name, shape in tables.shapes.items():
            if name.startswith(("inputs_", "outputs_")) and name not in CONSTANT:
                continue
            if FEATURE.get(name, ("", ""))[1].startswith("P"):
                rows[name] = np.asarray(tables.columns(name, number, number + 1)[:, 0])
            elif shape and shape[0] == self._sizes[site]:
                rows[name] = np.asarray(tables.rows(name, number, number + 1)[0])
        inputs, outputs = (self._edges(tables, side, number) for side in ("inputs", "outputs"))
        return Feature(site, number, rows, inputs, outputs)

    def tokens_of(self, site: str, number: int, mode: str | None = None, count: int | None = None) -> Firings:
        """The tokens at which a feature fires in a pass, strongest first. count: no more than these of them."""
        tables = self.codes(site, mode)
        self._demand_feature(site, number)
        start, stop = tables.rows("feature_crow", number, number + 2).tolist()
        stop = stop if count is None else min(stop, start + count)
        return Firings(tables.rows("token", start, stop), tables.rows("by_feature", start, stop))

    def features_at(self, token: int, threshold: float = 0.0, mode: str | None = None) -> list[Active]:
        """The features of all sites whose activation at a token is above a threshold, strongest first."""
        self._demand_token(token)
        found = []
        for site in self.sites:
            tables = self.codes(site, mode)
            start, stop = tables.rows("crow", token, token + 2).tolist()
            features, values = tables.rows("feature", start, stop), tables.rows("value", start, stop)
            found += [
                Active(site, feature, value)
                for feature, value in zip(features.tolist(), values.tolist(), strict=True)
                if value > threshold
            ]
        return sorted(found, key=lambda one: -one.value)

    def context(self, token: int, *, before: int = 10, after: int = 5) -> Context:
        """The text around a token, inside its window."""
        self._demand_token(token)
        first = token - token % self.context_size
        start, stop = max(first, token - before), min(first + self.context_size, token + after + 1)
        ids = self.tokens["id"][start:stop].tolist()
        live = tuple(self.tokens["live"][start:stop].tolist())
        return Context(token, tuple(self._text(number) for number in ids), token - start, live)

    def _text(self, number: int) -> str:
        if not 0 <= number < len(self.vocabulary):
            raise AnalysisError(f"{self.folder / VOCABULARY} has {len(self.vocabulary)} texts, and none of {number}")
        return self.vocabulary[number]

    def _edges(self, tables: Tables, side: str, number: int) -> tuple[Edge, ...] | None:
        if f"{side}_crow" not in tables:
            return None
        start, stop = tables.rows(f"{side}_crow", number, number + 2).tolist()
        columns = (tables.rows(side + key, start, stop).tolist() for key in ("_site", "_feature", "_weight", "_mean"))
        return tuple(Edge(self.site_names[one[0]], *one[1:]) for one in zip(*columns, strict=True))

    def _known(self, site: str) -> str:
        if site not in self._sizes:
            raise AnalysisError(f"{site}: no site of {self.folder}; there are {', '.join(self.site_names)}")
        return site

    def _pass(self, mode: str | None) -> str:
        mode = self.passes[-1] if mode is None else mode
        if mode not in self.passes:
            raise AnalysisError(f"{mode}: no pass of {self.folder}; there are {', '.join(self.passes)}")
        return mode

    def _demand_feature(self, site: str, number: int) -> None:
        if not 0 <= number < self._sizes[site]:
            raise IndexError(f"feature {number} of {site}, which has features 0..{self._sizes[site] - 1}")

    def _demand_token(self, token: int) -> None:
        if not 0 <= token < self.n_tokens:
            raise IndexError(f"token {token} of {self.folder}, which has tokens 0..{self.n_tokens - 1}")


def _json(path: Path) -> Any:
    if not path.is_file():
        raise AnalysisError(f"{path} is missing: no analysis, or a damaged one")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AnalysisError(f"{path} is not valid JSON: {error}") from error


def _object(path: Path) -> dict[str, Any]:
    found = _json(path)
    if not isinstance(found, dict):
        raise AnalysisError(f"{path} holds a {type(found).__name__}, expected an object")
    return found
