"""How the threads of a computation wait for each other, which has to be said before torch is loaded.

Between two parts of a step the threads of OpenMP spin before they sleep: on a core that another process wants, too,
each waits for one that does not run, and a step takes many times as long. To sleep at once costs as much where nobody
else is. So they spin for a moment, which is enough alone and short beside others (`python -m benchmarks waiting`).
"""

import sys
from collections.abc import Container, MutableMapping

VARIABLE = "GOMP_SPINCOUNT"  # of GNU's OpenMP, which torch brings on Linux; others do not read it
TURNS = "50000"
SAID_BY_USER = (VARIABLE, "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def spin_briefly(environment: MutableMapping[str, str], loaded: Container[str] = sys.modules) -> None:
    """Let the threads of this process sleep soon, unless the user said how they wait, or torch has read it already."""
    if "torch" not in loaded and not any(name in environment for name in SAID_BY_USER):
        environment[VARIABLE] = TURNS
