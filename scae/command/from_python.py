"""The command from Python, for a notebook."""

import subprocess
import sys
import time
from pathlib import Path

from scae.experiment.opened import Run, open_run

COMMAND = Path(__file__).parents[2] / "train.py"


def train(*overrides: str, folder: str | Path | None = None) -> Run:
    """`python train.py OVERRIDES`, in a process of its own, and the run that it leaves.

    folder: the run directory; a new one below `multirun/` where nothing is said. What the command says is passed on.
    Raises RuntimeError where it fails, with the last line of that; FileNotFoundError where scae was installed without
    the repository that holds `train.py` and `conf/`.
    """
    if not COMMAND.is_file():
        raise FileNotFoundError(f"there is no {COMMAND}: install scae from its repository, with pip install -e")
    output = Path(folder) if folder is not None else Path("multirun") / time.strftime("%Y-%m-%d/%H-%M-%S")
    command = [sys.executable, str(COMMAND), *overrides, f"hydra.run.dir={output}"]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            last = line.strip() or last
    if process.returncode:
        raise RuntimeError(last)
    return open_run(output)
