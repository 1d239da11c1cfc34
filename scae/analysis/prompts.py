"""How much of what the model predicts its circuits explain: the scores of one circuit, as means over prompts.

A prompt is the beginning of a window of the text, up to the last live position among its first `length`. Its graph is
exact (`scae.attribution.exact`) and not cut down; `scae.attribution.Scores` says what each score is (Ameisen et al.
2025). Along random connections the same dictionaries give the twin: its edges sum as exactly, so that the two plain
scores hardly move, and the strict ones do, which count what was cut as an error.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from scae.analysis.scalar import connected
from scae.attribution import Scores, exact, scores
from scae.connections import Connections
from scae.lm import LanguageModel, Trace
from scae.suite import Suite

LENGTH = 16  # tokens of a prompt


def explained(
    suite: Suite,
    traces: Iterable[Trace],
    *,
    prompts: int,
    connections: Connections | None = None,
    length: int = LENGTH,
) -> dict[str, Any]:
    """`{"prompts": how many, "tokens": of a prompt on average, replacement, completeness, strict_..., constant}`.

    connections: in place of the suite's own. A mean is None where no window has live text at its beginning.
    """
    suite = connected(suite, suite.connections if connections is None else connections)
    found: list[Scores] = []
    tokens = 0
    for one in beginnings(suite.lm, traces, prompts=prompts, length=length):
        graph = exact(suite, one)
        found.append(scores(graph.nodes, graph.links))
        tokens += one.tokens.shape[1]
    means = {name: _mean([getattr(one, name) for one in found]) for name in Scores._fields}
    return {"prompts": len(found), "tokens": _mean([tokens / len(found)] if found else [])} | means


def beginnings(lm: LanguageModel, traces: Iterable[Trace], *, prompts: int, length: int) -> Iterator[Trace]:
    """Runs of the model on prompts alone, one a window, of the first windows that begin with text."""
    left = prompts
    for trace in traces:
        for window in range(len(trace.tokens)):
            if left == 0:
                return
            live = trace.live[window, :length].nonzero()[:, 0]
            if len(live):
                part = slice(window, window + 1), slice(0, int(live[-1]) + 1)
                documents = None if trace.documents is None else trace.documents[part]
                left -= 1
                yield lm.trace(trace.tokens[part], trace.live[part], documents)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
