"""Measures steps in processes of their own: `python -m benchmarks.worker < cases.json`.

The worker imports what the steps need and does nothing with it; every case is then measured in a fork, which shares no
memory with the cases before it and pays for no import.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.measure import ALLOCATOR, interleaved, peak_bytes

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """A step by its builder, "module.function" in this package, and the plain values that it is built from.

    rounds: how often it is timed. warm: whether it runs once before its memory is measured.
    """

    build: str
    values: dict[str, Any] = field(default_factory=dict)
    rounds: int = 0
    warm: bool = True

    def make(self) -> Any:
        module, _, function = self.build.partition(".")
        return getattr(import_module(f"benchmarks.{module}"), function)(**self.values)


def measured(
    cases: Sequence[Case],
    *,
    device: str,
    keep_freed: bool = False,
    environment: Mapping[str, str | None] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """`seconds` (where rounds were asked for) and `bytes` at the peak of each case, each in a process of its own.

    keep_freed: with the allocator that training runs under, for times; without it, for memory, a block that was freed
    is memory that is gone. environment: variables of these processes; None: one that is not set.
    """
    variables: dict[str, str | None] = {**os.environ, **(ALLOCATOR if keep_freed else {}), **environment}
    request = json.dumps({"device": device, "cases": [asdict(case) for case in cases]})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.worker"],
        input=request,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={name: value for name, value in variables.items() if value is not None},
        text=True,
        check=True,
    )
    results = json.loads(done.stdout.splitlines()[-1])
    for case, result in zip(cases, results, strict=True):
        if "error" in result:
            raise RuntimeError(f"{case.build} {case.values}: {result['error']}")
    return results


def peaks(cases: Sequence[Case], *, device: str) -> list[int]:
    """The peak memory of each case, in bytes above the level before the step."""
    return [result["bytes"] for result in measured(cases, device=device)]


def main() -> None:
    request = json.load(sys.stdin)
    cases = [Case(**case) for case in request["cases"]]
    for module in {case.build.partition(".")[0] for case in cases}:
        import_module(f"benchmarks.{module}")  # once, for all forks
    results = [_in_a_fork(case, request["device"]) for case in cases]
    sys.stdout.write(json.dumps(results) + "\n")


def _in_a_fork(case: Case, device: str) -> dict[str, Any]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with os.fdopen(write, "w") as pipe:
                pipe.write(json.dumps(_measure(case, device)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        return {"error": f"its process ended with {os.waitstatus_to_exitcode(status)} (-9: out of memory)"}
    return json.loads(answer)


def _measure(case: Case, device: str) -> dict[str, Any]:
    step = case.make()
    step.settle()
    result: dict[str, Any] = {}
    if case.rounds:
        result["seconds"] = interleaved({"it": step}, device=device, rounds=case.rounds)["it"].seconds
    elif case.warm:
        step()
    step.rest()
    return result | {"bytes": peak_bytes(step, device)}


if __name__ == "__main__":
    main()
