"""One clear error where a disk, and not the program, is at fault."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scae.core.failures import ArtifactError

# Said by a disk that writes nothing more, wherever that is.
_FULL = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file has reached the limit of its size",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk fails",
}
# Said of a file; where it lies decides whether it is one of those that are written here.
_NO_PLACE = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "not a folder",
    errno.EEXIST: "a file stands where a folder is needed",
}


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raises ArtifactError instead of what the disk made fail inside, at `place` or beside it; any other error stays
    what it is."""
    try:
        yield
    except Exception as error:
        trouble = _trouble(error, place.parent)
        if trouble is None:
            raise
        raise ArtifactError(
            f"{place} cannot be written: {trouble}; repair that and repeat the command, it continues where it stopped"
        ) from error


def _trouble(error: Exception, folder: Path) -> str | None:
    """What the disk has done, with the file where it is known; None where it has done nothing."""
    if not isinstance(error, OSError):  # safetensors, and whatever else is written in Rust, says it in words
        number = re.search(r"\(os error (\d+)\)", str(error))
        return _FULL.get(int(number[1])) if number else None
    if error.errno in _FULL:
        return _FULL[error.errno] + (f" ({error.filename})" if error.filename else "")
    ours = error.filename is not None and Path(os.fsdecode(error.filename)).absolute().is_relative_to(folder.absolute())
    return f"{_NO_PLACE[error.errno]} ({error.filename})" if ours and error.errno in _NO_PLACE else None
