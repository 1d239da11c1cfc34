"""Commands of the product, each in a process of its own, which begins with the libraries imported.

torch, Lightning and TransformerLens take eight seconds to import. One process imports them, and every command is a fork
of it: what `python` does from there on, in its own directory, environment and session. It imports the product anew.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

LIBRARIES = (
    *("torch", "lightning", "transformer_lens.model_bridge", "transformers", "datasets"),
    *("hydra", "pydantic", "numba", "matplotlib.figure", "rich.table", "safetensors.torch", "jaxtyping"),
)
STREAMS = ("stdout", "stderr")
LAUNCHER_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "RANK", "SLURM_PROCID")


class Running:
    """`python *arguments`, where the first argument is a script, or "-m" and then a module."""

    def __init__(self, *arguments: str | Path, cwd: Path, environment: Mapping[str, str] | None = None) -> None:
        self.arguments = [str(argument) for argument in arguments]
        self._streams = tempfile.TemporaryDirectory()
        streams = [Path(self._streams.name, name) for name in STREAMS]
        for stream in streams:
            stream.touch()
        own = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
        own |= environment or {}
        self._process = _server().Process(target=_become, args=(self.arguments, str(cwd), own, streams))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.is_alive()

    def told(self) -> str:
        """What it has written to stderr so far."""
        return Path(self._streams.name, "stderr").read_text()

    def done(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """When it has ended; with the number of the signal, negative, where one has ended it."""
        self._process.join(timeout)
        if self.runs:
            self._process.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout, stderr=self.told())
        status = self._process.exitcode
        assert status is not None
        with self._streams as folder:
            told = [Path(folder, name).read_text() for name in STREAMS]
        return subprocess.CompletedProcess(self.arguments, status, *told)


def run(
    *arguments: str | Path, cwd: Path, environment: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    return Running(*arguments, cwd=cwd, environment=environment).done(timeout)


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    return context


def _become(arguments: list[str], cwd: str, environment: dict[str, str], streams: list[Path]) -> None:
    os.setsid()
    for number, path in enumerate(streams, start=1):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    is_module = arguments[0] == "-m"
    target, *sys.argv[1:] = arguments[is_module:]
    sys.argv[0] = target
    first = cwd if is_module else str(Path(target).resolve().parent)
    libraries = [path for path in sys.path if path.startswith(sys.prefix) or path.startswith(sys.base_prefix)]
    sys.path[:] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *libraries]
    try:
        if is_module:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(target, run_name="__main__")
    finally:
        atexit._run_exitfuncs()
