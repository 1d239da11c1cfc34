"""Statistics of a batch that is split between the processes of a data-parallel run."""

import torch.distributed as dist
from torch import Tensor


def summed(value: Tensor) -> Tensor:
    """The sum over all processes, which must all ask for it; `value` itself where there is one."""
    if not is_split():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value


def averaged(value: Tensor) -> Tensor:
    """The mean over all processes: gradients are averaged, so each must divide its own sums by it."""
    return summed(value) / dist.get_world_size() if is_split() else value


def is_split() -> bool:
    return dist.is_available() and dist.is_initialized()
