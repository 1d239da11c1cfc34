"""What a suite begins from instead of random rows (`pretrain.init_from`).

A stored suite is taken with the units of its sites. The file of another library has the unit of the stream: its
dictionary is rewritten in the unit of its site, which computes the same (`scae.dictionaries.folding`).
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from scae.config import ConfigError
from scae.dictionaries import Dictionary
from scae.dictionaries.folding import begin_as, in_units, refuse_unlike, with_rows_of_norm_one
from scae.interop.formats import FORMATS
from scae.interop.found import Found, found_to_begin
from scae.sites import Site
from scae.suite import Mode, Suite
from scae.suite.files import load_dictionaries

log = logging.getLogger(__name__)


class Beginning:
    """The dictionaries that lie at a path, for the sites of a suite.

    Raises ConfigError, naming the path, where a site has none, or one of another size or type.
    """

    def __init__(self, path: str, suite: Suite) -> None:
        self.path, self.suite = path, suite
        self.found = found_to_begin(path)
        self.threshold_pass: Mode | None = "plain"  # other libraries know the model's own activations alone
        try:
            self.given = self._stored() if self.found.is_suite else self._read()
            for site, given in self.given.items():
                refuse_unlike(suite[site], given, str(site))
        except ValueError as error:
            raise ConfigError(f"pretrain.init_from={path}: {error}") from error

    @property
    def to_measure(self) -> tuple[Site, ...]:
        """The sites whose units have to be measured before `begin`."""
        return () if self.found.is_suite else self.suite.sites

    def begin(self, *, unit_norm: bool) -> None:
        """Let every dictionary of the suite begin as the one that was found for it.

        unit_norm: training keeps decoder rows at norm 1, so they are brought there first.
        """
        for site, given in self.given.items():
            own = self.suite[site]
            try:
                start = given.to(own.decoder.W.device)
                if not self.found.is_suite:
                    start = in_units(start, own.reads, own.writes)
                begin_as(own, with_rows_of_norm_one(start) if unit_norm else start)
            except ValueError as error:
                more = "; pretrain.unit_norm=false leaves decoder rows as long as they are" if unit_norm else ""
                raise ConfigError(f"pretrain.init_from={self.path}: {site}: {error}{more}") from error
        self.suite.threshold_pass = self.threshold_pass
        log.info("pretrain: %d sites begin from %s (%s)", len(self.given), self.path, self.found.format)

    def _stored(self) -> dict[Site, Dictionary]:
        """Of a suite; sites that it has beyond ours stay where they are."""
        stored, self.threshold_pass = load_dictionaries(self.found.folders[""])
        self._refuse_missing({str(site): site for site in stored})
        return {site: stored[site] for site in self.suite.sites}

    def _read(self) -> dict[Site, Dictionary]:
        """Of another library."""
        folders = self._by_site(self.found)
        self._refuse_missing(folders)
        read, given = FORMATS[self.found.format].read, {}
        for site in self.suite.sites:
            folder = folders[str(site)]
            one = read(folder)
            settings = self.suite[site].spec
            if one.rule.k is not None and one.rule.k != settings.get("k", one.rule.k):
                log.warning("%s keeps the %d largest; from now on sae.k=%d are kept", folder, one.rule.k, settings["k"])
            given[site] = one.dictionary(settings)
        return given

    def _by_site(self, found: Found) -> Mapping[str, Path]:
        sites = self.suite.sites
        if list(found.folders) != [""]:
            return found.folders
        if len(sites) > 1:
            raise ConfigError(
                f"one dictionary for {len(sites)} sites; needed: one site (sites.layers, sites.kinds), or a folder of "
                f"folders named by site: {', '.join(map(str, sites))}"
            )
        return {str(sites[0]): found.folders[""]}

    def _refuse_missing(self, there: Mapping[str, object]) -> None:
        missing = [str(site) for site in self.suite.sites if str(site) not in there]
        if missing:
            raise ConfigError(
                f"nothing for {', '.join(missing)}; it has {', '.join(there)}: choose with sites.layers and sites.kinds"
            )
