"""The threads of numba's compiled loops: torch's, which follow OMP_NUM_THREADS, and Lightning beside other processes.

When numba's pool starts, it tells OpenMP to use every core, and torch, which asks OpenMP, would from then on. So the
pool starts here, and torch is given its number back.
"""

import numba
import torch

_threads = torch.get_num_threads()
_most = numba.get_num_threads()  # starts the pool
torch.set_num_threads(_threads)


def threads() -> int:
    """How many threads the compiled loops take that are called next; numba is told so."""
    number = min(torch.get_num_threads(), _most)
    numba.set_num_threads(number)
    return number
