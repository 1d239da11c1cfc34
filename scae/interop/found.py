"""What lies at a path that dictionaries are to be read from; nothing here imports torch.

a run directory              the suite that its pretraining has left
the folder of an artifact    its suite
a folder, a file             of one dictionary in the format of another library
a folder of such folders     each named by its site, such as 0.mlp
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from scae.config import ConfigError
from scae.config.errors import shortened

FILES = {
    "scae": ("suite.json", "suite.safetensors"),
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
}
"""By format: the files that a folder of it holds."""


@dataclass(frozen=True)
class Found:
    """Dictionaries on disk.

    format: one of `FILES`; folders: by the name of the site; a suite has one folder for all of its sites, which its
    files name, and a single dictionary of another library has no site: both stand under "".
    """

    format: str
    folders: dict[str, Path]

    @property
    def is_suite(self) -> bool:
        return self.format == "scae"

    @property
    def fingerprint(self) -> str:
        """What the files say that are read, whatever lies beside them and wherever they lie."""
        digest = hashlib.sha256(self.format.encode())
        for site, folder in sorted(self.folders.items()):
            for name in FILES[self.format]:
                with (folder / name).open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{site}/{name}:{content}\n".encode())
        return digest.hexdigest()[:16]


def find(path: str | Path, *, stages: tuple[str, ...] = ("pretrain",)) -> Found:
    """stages: of a run directory, whose suite: the first of them that the run has. Raises ConfigError where there is
    nothing that can be read."""
    folder = Path(path).expanduser()
    if folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigError(f"{shortened(str(path))}: no such file or folder")
    if (folder / "run.json").is_file():
        folder = stage_of(folder, stages)
    if (format := _format(folder)) is not None:
        return Found(format, {"": folder})
    parts = {part.name: part for part in sorted(folder.iterdir()) if part.is_dir() and _format(part) is not None}
    formats = {_format(part) for part in parts.values()}
    if len(formats) == 1 and (format := formats.pop()) not in (None, "scae"):
        return Found(format, parts)
    raise ConfigError(
        f"{shortened(str(path))}: no dictionary there; needed: a run directory, the folder of a pretrain or finetune "
        f"artifact, a folder with {' or '.join(' and '.join(FILES[name]) for name in FILES if name != 'scae')}, or a "
        "folder of such folders named by site, such as 0.mlp"
    )


def found_to_begin(path: str) -> Found:
    """What a suite begins from; raises ConfigError naming the key where there is nothing."""
    try:
        return find(path)
    except ConfigError as error:
        raise ConfigError(f"pretrain.init_from={error}") from error


def stage_of(run: Path, stages: tuple[str, ...]) -> Path:
    """The folder of what a stage of a run has made: the first of these stages that it has."""
    made = json.loads((run / "run.json").read_text())["stages"]
    found = [run / made[stage] for stage in stages if stage in made]
    if not found:
        raise ConfigError(
            f"{run}: this run has made no {' and no '.join(stages)}; it has {', '.join(made) or 'nothing'}"
        )
    if not found[0].is_dir():
        raise ConfigError(f"{run}: what it has made is gone: there is no {found[0]}")
    return found[0]


def _format(folder: Path) -> str | None:
    names = (name for name, files in FILES.items() if all((folder / file).is_file() for file in files))
    return next(names, None)
