"""`python -m scae.interop export RUN --format saelens --site 0.mlp --out DIR`: dictionaries for other libraries.

RUN is a run directory or the folder of a pretrain or finetune artifact. Without --site, every site gets a folder of its
name below DIR.
"""

import argparse
import logging
import sys
from pathlib import Path

from rich.console import Console

from scae.interop.found import FILES


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m scae.interop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["export"])
    parser.add_argument("source", type=Path, metavar="RUN")
    parser.add_argument("--format", choices=[name for name in FILES if name != "scae"], required=True)
    parser.add_argument("--site", action="append", metavar="SITE", help="such as 0.mlp; may be given more than once")
    parser.add_argument("--stage", choices=["pretrain", "finetune"], help="of a run: the last one that it has")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from scae.interop.export import export  # imports torch

    stages = ("finetune", "pretrain") if options.stage is None else (options.stage,)
    try:
        export(options.source, options.out, format=options.format, sites=options.site, stages=stages)
    except (ValueError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
