"""Artifacts: directories named by what determines their content. `python -m scae.artifacts list|clean` tidies them."""

from scae.artifacts.artifact import Artifact, Make, locked
from scae.artifacts.disk import writing
from scae.artifacts.fingerprint import fingerprint
from scae.artifacts.job import is_first_process, leading

__all__ = ["Artifact", "Make", "fingerprint", "is_first_process", "leading", "locked", "writing"]
