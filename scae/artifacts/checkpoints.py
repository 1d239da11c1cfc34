"""The checkpoint of an unfinished stage, and how to tell whose it is before anything heavy is imported."""

import zipfile
from pathlib import Path

from scae.config import ConfigError

CHECKPOINT = "last.ckpt"
"""Its name in the folder of the stage under work."""


def read_identity(checkpoint: Path) -> dict:
    """The plain values by which a stage marked its checkpoint; raises ConfigError where it is none of ours."""
    import torch  # and not Lightning: a checkpoint of another configuration is refused within seconds

    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return dict(content["hyper_parameters"])
    except Exception as error:
        raise ConfigError(f"ckpt_path={checkpoint}: no checkpoint of a stage of scae ({error})") from error


def damage_of(checkpoint: Path) -> str | None:
    """What is wrong with the file, all of which is read; None where every byte is as it was written."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            bad = archive.testzip()
    except Exception as error:  # one byte is enough to break any part of a reader of zip files
        return f"{type(error).__name__}: {error}"
    return f"the checksum of {bad} is wrong" if bad else None
