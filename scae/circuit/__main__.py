"""`python -m scae.circuit RUN_DIR "prompt"`: the circuit of a prompt, as a page and as graph.json.

With --global SITE/FEATURE in place of the prompt, the connections around a feature, whatever the text.
"""

import argparse
import logging
import sys
from pathlib import Path

from rich.console import Console


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, or 2 with one line on stderr."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        _write(options)
    except (ValueError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scae.circuit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN_DIR", help="the directory of a finished run")
    add("prompt", nargs="?", metavar="PROMPT", help="a text; its next token is what is explained")
    add("--out", type=Path, metavar="DIR", help="default: RUN_DIR/circuits/SLUG")
    add("--slug", help="a name for the folder; default: made from the prompt")
    add("--node-threshold", type=float, default=0.8, metavar="SHARE", help="of the influence that nodes hold (0.8)")
    add("--edge-threshold", type=float, default=0.98, metavar="SHARE", help="of the influence that edges hold (0.98)")
    add("--logits", type=int, default=10, metavar="N", help="next tokens that are explained, at most (10)")
    add("--global", dest="feature", metavar="SITE/FEATURE", help="the connections around a feature, as in 2.mlp/17")
    add("--steps", type=int, default=1, metavar="K", help="with --global: steps back and forth (1)")
    add("--strongest", type=int, default=16, metavar="N", help="with --global: inputs and outputs a feature (16)")
    return parser


def _write(options: argparse.Namespace) -> None:
    if (options.prompt is None) == (options.feature is None):
        raise ValueError('give a prompt, as in RUN_DIR "Once upon a time", or --global SITE/FEATURE')
    from scae.circuit import around, circuit  # imports torch
    from scae.circuit.files import check_slug, slug_of
    from scae.experiment.opened import open_run

    subject = options.prompt if options.feature is None else options.feature
    slug = None if options.slug is None else check_slug(options.slug)
    run, console = open_run(options.run), Console(soft_wrap=True, highlight=False)
    if options.feature is not None:
        found = around(run, subject, steps=options.steps, strongest=options.strongest)
        console.print(f"{len(found.nodes)} nodes, {len(found.weight)} connections around {subject}", markup=False)
    else:
        whole = circuit(run, subject, logits=options.logits)
        scores = whole.scores
        assert scores is not None
        found = whole.prune(options.node_threshold, options.edge_threshold)
        console.print(
            f"{len(found.nodes)} of {len(whole.nodes)} nodes, {len(found.weight)} of {len(whole.weight)} edges; "
            f"replacement {scores.replacement:.3f}, completeness {scores.completeness:.3f}; sums of edges differ from "
            f"the pass by {whole.about.absolute:.1e} at most",
            markup=False,
        )
    slug = slug or slug_of(subject)
    folder = found.save(options.run / "circuits" / slug if options.out is None else options.out, slug)
    console.print(str(folder / "circuit.html"), markup=False)


if __name__ == "__main__":
    sys.exit(main())
