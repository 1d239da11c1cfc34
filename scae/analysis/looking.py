"""The one pass over the text, part by part; an interrupted one goes on with the parts that it has finished.

    parts/00000.safetensors    the codes of its tokens, `<pass>/<site>/counts`, `/feature`, `/value`
    sums.safetensors           what was added up over the parts so far, and how many those are

The sums are written after the part that they include, so a part that is not among them is looked at again, with the
same result; sums of float64 go on where they stopped, so that they are the same bit for bit.
"""

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from scae.analysis.ablation import SPLICED, Ablation
from scae.analysis.codes import KEPT, Codes
from scae.analysis.contributions import Contributions
from scae.analysis.database import Part
from scae.analysis.fidelity import Fidelity
from scae.analysis.sums import Summing, Sums, added
from scae.analysis.text import Text
from scae.core.typing import Int, Tensor
from scae.core.whole_files import write
from scae.evaluation import Arm, walk
from scae.evaluation.moments import Moments
from scae.lm import LanguageModel
from scae.report.analysis_files import Tables
from scae.sites import Site
from scae.suite import Mode, Suite

log = logging.getLogger(__name__)
PASSES: tuple[Mode, ...] = ("plain", "pruned")


class Looking:
    """suites: by pass the suite that runs it, plain and spliced, and pruned where there is that pass; one and the same
    but for thresholds that belong to a pass."""

    def __init__(self, lm: LanguageModel, suites: Mapping[Mode, Suite], text: Text, folder: Path) -> None:
        self.lm, self.suites, self.text, self.folder = lm, dict(suites), text, folder
        self.passes = tuple(mode for mode in PASSES if mode in suites)
        self.moments = Moments(list(self.suite.sites))
        self.sums: Sums = {}

    @property
    def suite(self) -> Suite:
        """As the last of the passes runs it."""
        return self.suites[self.passes[-1]]

    @property
    def connected(self) -> bool:
        """Whether there are connections to look at, and not all that there can be."""
        return "pruned" in self.passes and not self.suite.connections.is_complete

    def run(self) -> None:
        """Look at all parts that have not been looked at; `moments` and `sums` are known then."""
        walk(self.lm, [], self.text.traces(self.lm), [self.moments])
        parts = self.text.parts
        done, self.sums = self._resumed()
        for number, part in enumerate(parts[done:], start=done):
            codes, sums = self._look(part)
            self._path(number).parent.mkdir(parents=True, exist_ok=True)
            write(self._path(number), partial(save_file, codes))
            self.sums = added(self.sums, sums)
            note = {"parts": str(number + 1)}
            write(self.folder / "sums.safetensors", partial(save_file, self.sums, metadata=note))
            if number + 1 < len(parts):
                log.info("analyze: %d of %d parts of the text", number + 1, len(parts))

    def parts_of(self, mode: str, site: Site) -> Iterator[Part]:
        """What was found at a site in a pass, part by part."""
        for number in range(len(self.text.parts)):
            file = Tables(self._path(number))
            yield Part(*(file[f"{mode}/{site}/{what}"] for what in KEPT))

    def forget(self) -> None:
        """Remove what a finished analysis needs no more."""
        (self.folder / "sums.safetensors").unlink(missing_ok=True)
        for path in (self.folder / "parts").glob("*"):
            path.unlink()
        if (self.folder / "parts").is_dir():
            (self.folder / "parts").rmdir()

    def _look(self, part: Int[Tensor, " window"]) -> tuple[dict[str, Tensor], Sums]:
        arms = [Arm(mode, self.suites[mode], mode) for mode in (*self.passes, SPLICED)]
        codes = Codes(self.passes)
        summing: list[Summing] = [Fidelity(self.passes)]
        summing += [Ablation({site: self.moments.mean(site) for site in self.suite.sites})]
        summing += [Contributions()] if self.connected else []
        walk(self.lm, arms, self.text.traces(self.lm, part), [codes, *summing])
        sums: Sums = {}
        for one in summing:
            sums |= one.sums
        return codes.tensors, sums

    def _resumed(self) -> tuple[int, Sums]:
        """How many parts an interrupted command has finished, and their sums; 0 where one of their files is damaged."""
        try:
            with safe_open(self.folder / "sums.safetensors", framework="pt") as file:
                done = int((file.metadata() or {})["parts"])
                sums = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            for number in range(done):
                Tables(self._path(number))
        except FileNotFoundError:
            return 0, {}
        except Exception as error:  # whatever a damaged file breaks on
            log.warning("%s: what an interrupted analysis has left is damaged, it begins again", error)
            return 0, {}
        if done:
            log.info("analyze: goes on behind part %d", done)
        return done, sums

    def _path(self, number: int) -> Path:
        return self.folder / "parts" / f"{number:05d}.safetensors"
