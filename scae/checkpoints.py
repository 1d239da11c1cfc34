"""The checkpoint of an unfinished stage, and how to tell whose it is before anything heavy is imported."""

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
