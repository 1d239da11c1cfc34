"""Settings of the whole process that decide how fast a CPU computes; made before torch is imported.

Threads that wait sleep instead of spinning. On a quiet machine of 2 cores that costs a step 10 to 30 %; beside one other
busy process it is 4 times as fast (measured), and sweeps, data-parallel runs and shared machines are the rule.

Freed memory stays in the process. glibc returns every large block to the kernel when it is freed, and the kernel hands
out zeroed pages again at the next allocation; a training step allocates the same blocks over and over. Measured on a
model of 5 layers: a trace of 2,048 tokens takes 0.09 s with this and 0.29 s without.
"""

import ctypes
import logging
import os
import sys

log = logging.getLogger(__name__)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 1 << 30  # bytes; blocks above this size are still returned


def prepare() -> None:
    """Make both settings; an OMP_WAIT_POLICY of the user's own stands. Says so once where memory cannot be kept."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
            libc.mallopt(M_TRIM_THRESHOLD, LARGEST)
            return
    log.info("this C library has no mallopt: steps on the CPU spend more time in the allocator")
