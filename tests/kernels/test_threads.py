"""The compiled loops take as many threads as torch has, and leave torch its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, torch
before = torch.get_num_threads()
from scae.kernels import largest
import numba

def used():
    largest(torch.ones(4, 8), 2, torch.ones(4, dtype=torch.bool))
    return torch.get_num_threads(), numba.get_num_threads()

found = [before, used()]
for number in (3, 1, 9):
    torch.set_num_threads(number)
    found.append(used())
print(json.dumps(found))
"""


@pytest.mark.parametrize("given", [1, 2])
def test_numba_follows_torch(given: int) -> None:
    """Of four that the machine has for numba; a process of its own, where numba's pool has not started yet."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MKL_")}
    environment |= {"OMP_NUM_THREADS": str(given), "NUMBA_NUM_THREADS": "4", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [given, [given, given], [3, 3], [1, 1], [9, 4]]
