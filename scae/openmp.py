"""How the threads of a computation wait for each other, which has to be said before torch is loaded.

Between two parts of a step the threads of OpenMP spin: on a core that another process wants, too, each waits for one
that does not run, and a step takes several times as long. Asleep they cost a little where they are alone
(`python -m benchmarks waiting` measures both).
"""

import sys
from collections.abc import Container, MutableMapping

POLICY = "OMP_WAIT_POLICY"
CHOSEN = f"threads sleep while they wait for each other ({POLICY}=PASSIVE); on an idle machine {POLICY}=ACTIVE may gain"


def sleep_while_waiting(environment: MutableMapping[str, str], loaded: Container[str] = sys.modules) -> bool:
    """Let the threads of this process sleep, unless the user said how they wait. False: it was left as it is."""
    said = POLICY in environment or "GOMP_SPINCOUNT" in environment or "KMP_BLOCKTIME" in environment
    if said or "torch" in loaded:  # torch has read the variable
        return False
    environment[POLICY] = "PASSIVE"
    return True
