"""A .safetensors larger than memory: its header first, then its tensors a run of rows at a time, in any order.

8 bytes, little endian: the length of the header     the header, JSON: {name: {dtype, shape, data_offsets}}     data
"""

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scae.core.whole_files import write

Array = NDArray[Any]
DTYPES = {"I64": np.int64, "I32": np.int32, "F32": np.float32}


class Streamed:
    """The file while it is written. Nothing of it is held; what has been written can be read again."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[str, int]]) -> None:
        """shapes: by name, the dtype of a vector and its length."""
        self._places: dict[str, tuple[np.dtype[Any], int, int]] = {}
        header: dict[str, Any] = {}
        end = 0
        # the widest first: every tensor then begins at a multiple of the size of its numbers
        for name, (dtype, size) in sorted(shapes.items(), key=lambda one: -np.dtype(DTYPES[one[1][0]]).itemsize):
            kind = np.dtype(DTYPES[dtype]).newbyteorder("<")
            self._places[name] = (kind, end, size)
            header[name] = {"dtype": dtype, "shape": [size], "data_offsets": [end, end := end + size * kind.itemsize]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._begins = 8 + len(text)
        self._file = path.open("w+b")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(self._begins + end)

    def put(self, name: str, start: int, values: Array) -> None:
        """Write a run of a tensor."""
        kind, begins, size = self._places[name]
        if not 0 <= start <= start + len(values) <= size:
            raise ValueError(f"{name} has {size} numbers, and none at {start} to {start + len(values)}")
        self._file.seek(self._begins + begins + start * kind.itemsize)
        self._file.write(np.ascontiguousarray(values, dtype=kind).data)

    def get(self, name: str, start: int, stop: int) -> Array:
        """What has been written there."""
        kind, begins, _ = self._places[name]
        self._file.flush()
        found = os.pread(
            self._file.fileno(), (stop - start) * kind.itemsize, self._begins + begins + start * kind.itemsize
        )
        return np.frombuffer(found, dtype=kind)

    def close(self) -> None:
        self._file.close()


def write_streamed(path: Path, shapes: Mapping[str, tuple[str, int]], fill: Callable[[Streamed], None]) -> Path:
    """Let `fill` write the tensors; the file is there whole or not at all."""
    return write(path, partial(_filled, shapes=shapes, fill=fill))


def _filled(path: Path, *, shapes: Mapping[str, tuple[str, int]], fill: Callable[[Streamed], None]) -> None:
    file = Streamed(path, shapes)
    try:
        fill(file)
    finally:
        file.close()
