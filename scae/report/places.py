"""Where the files of a run lie, seen from its directory."""

import os
from dataclasses import dataclass
from pathlib import Path

from scae.report.files import Job

FILES = {
    "report.md": "this page",
    "report.html": "the same to look at in a browser, and more",
    "features.html": "every feature: examples, connections, neighbours",
    "fvu.png": "FVU by site and arm",
    "curves.png": "loss, its terms and dead features over the steps of training",
    "metrics.json": "every number of this page and more, flat keys",
    "job.json": "the command's overrides and how it ended",
    "run.json": "the artifacts of the stages",
    ".hydra/config.yaml": "the whole config",
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """name, href: of a link; what: it is; stage: whose artifact it is, or ""; there: whether it exists."""

    name: str
    href: str
    what: str
    stage: str
    there: bool


def places(job: Job) -> list[Place]:
    """Every file that there is, then every artifact that there was."""
    found = [
        Place(name=name, href=name, what=what, stage="", there=True)
        for name, what in FILES.items()
        if name == "report.md" or (job.directory / name).is_file()
    ]
    for stage, path in job.stages.items():
        href = Path(os.path.relpath(path.resolve(), job.directory.resolve())).as_posix()
        found.append(Place(name=path.name, href=href, what="", stage=stage, there=path.exists()))
    return found
