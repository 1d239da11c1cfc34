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


def of_the_first(value: float) -> float:
    """What the first process has found, in all of them."""
    box = [value]
    if is_split():
        dist.broadcast_object_list(box)
    return box[0]


def is_split() -> bool:
    return dist.is_available() and dist.is_initialized()
