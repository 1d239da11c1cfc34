"""Fits on two processes beside the same on one: a script that Lightning starts again for the other devices."""

from pathlib import Path

import commands

ROOT = Path(__file__).parents[1]
HEAD = '''"""`python script.py DEVICES OUT`; Lightning starts this file again for the other devices."""
import importlib.util, json, logging, os, sys
from pathlib import Path

root, devices, out = Path({root!r}), int(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(root))
spec = importlib.util.spec_from_file_location("tiny_models", root / "tests" / "conftest.py")
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
lm = tiny._build("gpt2").lm
'''


def write_script(folder: Path, body: str, **values: str) -> Path:
    """`script.py`: what all have in common, then `body`, a format string. It finds `root`, `devices`, `out`, the
    fixtures of conftest as `tiny`, and a model `lm`."""
    script = folder / "script.py"
    script.write_text((HEAD + body).format(root=str(ROOT), **values))
    return script


def run_script(script: Path, devices: int, out: Path) -> None:
    """In a process of its own, which is no part of a distributed run."""
    done = commands.run(script, str(devices), out, cwd=script.parent, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
