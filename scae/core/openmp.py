"""How the threads of a computation wait for each other, which has to be said before torch is loaded.

Between two parts of a step the threads of OpenMP spin. Alone that is fastest; on a core that another process wants,
too, each waits for one that does not run, and a step takes many times as long, so that it is better for them to sleep
(`python -m benchmarks waiting` measures both). Nothing between the two is good at both.
"""

import sys
import time
from collections.abc import Callable, Container, MutableMapping
from pathlib import Path

POLICY = "OMP_WAIT_POLICY"
SAID_BY_USER = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
CHOSEN = f"other processes use this machine: threads sleep while they wait for each other ({POLICY}=PASSIVE)"
LOOKS, PAUSE = 10, 0.01  # whoever runs at every look does more than a moment's work; seconds between two


def sleep_beside_others(
    environment: MutableMapping[str, str],
    loaded: Container[str] = sys.modules,
    others_run: Callable[[], bool] | None = None,
) -> bool:
    """Let the threads of this process sleep where others want its cores, unless the user said how they wait.

    False: it was left as it is.
    """
    said = any(name in environment for name in SAID_BY_USER)
    if said or "torch" in loaded or not (others_run or _others_run)():  # torch has read the variable
        return False
    environment[POLICY] = "PASSIVE"
    return True


def _others_run(counts: Path = Path("/proc/loadavg")) -> bool:
    """Whether anything but this process runs at every look; False where the system does not count (it is no Linux)."""
    for _ in range(LOOKS):
        try:
            running = int(counts.read_text().split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return False
        if running <= 1:
            return False
        time.sleep(PAUSE)
    return True
