"""What is compared: a suite, and the pass that it runs."""

from dataclasses import dataclass

from scae.suite import Mode, Suite


@dataclass(frozen=True)
class Arm:
    """One row of the table of results. name: the key of its declaration in `scae.arms`."""

    name: str
    suite: Suite
    mode: Mode
