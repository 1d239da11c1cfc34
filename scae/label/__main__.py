"""`python -m scae.label RUN_DIR --endpoint http://localhost:8000/v1 --model NAME`: short descriptions of a run's
features by a language model, scored by how well they tell when the feature fires; into its labels.json, for its pages.

The examples are those of the stage `analyze`. The text of a few hundred snippets is sent to the endpoint, or stays here
with --local DIR. What is labelled already is kept, so the same command continues.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from scae.label.choice import RANKS, best, named, prepared, sites_of
from scae.label.endpoint import Endpoint
from scae.label.failures import LabelError, one_line
from scae.label.local import Local
from scae.label.prompts import describe
from scae.label.questions import Feature
from scae.label.records import Records
from scae.label.run import Tally, run
from scae.label.scoring import Outcome, requests
from scae.report.analysis_files import Analysis, AnalysisError

FEATURE_PAGES = "features.html"
TOKEN_VARIABLE = "SCAE_LABEL_TOKEN"


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, or 2 with one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        _label(options, Console(soft_wrap=True, highlight=False, markup=False))
    except (LabelError, AnalysisError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command continues", markup=False, highlight=False)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scae.label", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN_DIR", help="a finished run with the stage analyze")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible, up to and without /chat/completions")
    where.add_argument("--local", type=Path, metavar="DIR", help="a Hugging Face model in a folder; nothing is sent")
    add("--model", metavar="NAME", help="of the endpoint")
    add(
        "--token-variable",
        default=TOKEN_VARIABLE,
        metavar="NAME",
        help="the environment variable that holds the endpoint's token, if it wants one (%(default)s)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--features", type=_listed, metavar="2.mlp/17,...", help="these and no others")
    what.add_argument("--sites", type=_listed, metavar="0.attn,...", help="of these sites alone; otherwise of all")
    add("--top", type=_positive, default=20, metavar="N", help="so many living features of each site (%(default)s)")
    add(
        "--by",
        choices=RANKS,
        default="rate",
        help="the first ones by firing rate times the agreement of the passes, or by activation (%(default)s)",
    )
    add(
        "--examples",
        type=_positive,
        default=8,
        metavar="N",
        help="snippets that a description is made from, and firing ones that it is scored on (%(default)s)",
    )
    add("--seed", type=_whole, default=0, help="of the snippets that are drawn (%(default)s)")
    add("--concurrency", type=_positive, default=4, metavar="N", help="features asked about at once (%(default)s)")
    add("--max-tokens", type=_positive, default=1000, metavar="N", help="the longest answer (%(default)s)")
    add("--timeout", type=_positive, default=120, metavar="SECONDS", help="of one request (%(default)s)")
    add("--again", action="store_true", help="ask anew about features that labels.json has")
    add("--dry-run", action="store_true", help="show the first prompt and count the requests; ask nobody")
    return parser


def _label(options: argparse.Namespace, console: Console) -> None:
    model = _model_of(options)
    analysis = Analysis(_analysis_of(options.run))
    if options.features is None:
        wanted = best(analysis, sites_of(analysis, options.sites), options.top, options.by)
    else:
        wanted = named(analysis, options.features)
    if options.dry_run:
        _show(options, console, analysis, wanted, Records(options.run, model=model))
        return
    try:
        with FileLock(options.run / ".labels.lock").acquire(timeout=0):
            records = Records(options.run, model=model)  # read when nobody else writes
            features = _not_yet(options, analysis, wanted, records)
            asked, stop = _opened(options, console, features)
            tally = Tally()

            def known(outcome: Outcome) -> None:
                tally.outcomes.append(outcome)
                records.add(outcome)
                console.print(_line(outcome))

            try:
                run(features, asked, concurrency=1 if options.local else options.concurrency, known=known, stop=stop)
            finally:
                script = records.write_script()
    except Timeout:
        raise LabelError(f"another command labels {options.run} now") from None
    kept = f", {len(wanted) - len(features)} were there already" if len(features) < len(wanted) else ""
    shown = _rebuild(options.run) if tally.outcomes else ""
    console.print(f"{tally.summary(len(features))}{kept}: {records.path}, {script.relative_to(options.run)}{shown}")


def _opened(
    options: argparse.Namespace, console: Console, features: list[Feature]
) -> tuple[Callable, Callable[[], None]]:
    """Who is asked, and how to have it asked no more. The first line that is printed says where text goes."""
    count = _count(features)
    if options.local is not None:
        console.print(f"asks the model in {options.local} on this machine, nothing is sent: {count}")
        return (Local(options.local, longest=options.max_tokens) if features else _nobody), lambda: None
    endpoint = _endpoint(options)
    console.print(f"sends text to {endpoint.place}, model {options.model}: {count}")
    return endpoint, endpoint.stopped.set


def _endpoint(options: argparse.Namespace) -> Endpoint:
    return Endpoint(
        options.endpoint,
        model=options.model,
        token=os.environ.get(options.token_variable, ""),
        variable=options.token_variable,
        timeout=float(options.timeout),
        longest=options.max_tokens,
    )


def _rebuild(run: Path) -> str:
    """Let pages of features that are there show the labels; what to say of it."""
    if not (run / FEATURE_PAGES).is_file():
        return ""
    from scae.report import ReportError, write_run  # imports matplotlib

    try:
        write_run(run)
    except ReportError as error:
        return f"; {FEATURE_PAGES} does not show them yet: {one_line(str(error), 200)}"
    return f", {FEATURE_PAGES}"


def _nobody(prompt: str) -> None:
    raise AssertionError("no feature is left to ask about")


def _show(
    options: argparse.Namespace, console: Console, analysis: Analysis, wanted: list[tuple[str, int]], records: Records
) -> None:
    features = _not_yet(options, analysis, wanted, records)
    where = _endpoint(options).place if options.endpoint is not None else options.local or "nobody yet"
    console.print(f"would ask {where}: {_count(features)}; nothing is sent")
    if features:
        console.print(f"the first prompt, about {features[0].name}:\n\n{describe(features[0])}")


def _not_yet(
    options: argparse.Namespace, analysis: Analysis, wanted: list[tuple[str, int]], records: Records
) -> list[Feature]:
    left = [(site, number) for site, number in wanted if options.again or not records.has(f"{site}/{number}")]
    return list(prepared(analysis, left, examples=options.examples, seed=options.seed))


def _count(features: list[Feature]) -> str:
    return f"{len(features)} features, up to {sum(map(requests, features))} requests"


def _line(outcome: Outcome) -> str:
    if outcome.label is None:
        return f"{outcome.feature.name}  no label ({outcome.problem}): {outcome.answer}"
    scores = ("  - " if score is None else f"{score:.2f}" for score in (outcome.detection, outcome.fuzzing))
    return f"{outcome.feature.name}  {' '.join(scores)}  {outcome.label}"


def _model_of(options: argparse.Namespace) -> str:
    """What labels.json calls the model."""
    if options.local is not None:
        return options.local.resolve().name
    if options.endpoint is None and not options.dry_run:
        raise LabelError("who is to be asked? give --endpoint URL and --model NAME, or --local DIR")
    if options.model is None and not options.dry_run:
        raise LabelError("--endpoint needs --model NAME, one that it serves")
    return options.model or ""


def _analysis_of(run: Path) -> Path:
    """The artifact of a run's stage `analyze`."""
    note = run / "run.json"
    if not note.is_file():
        raise LabelError(f"{run} is no finished run: it holds no run.json")
    try:
        stages = json.loads(note.read_text(encoding="utf-8"))["stages"]
        found = stages.get("analyze")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise LabelError(f"{note} is damaged ({one_line(str(error), 100)})") from error
    if found is None:
        raise LabelError(f"{run} has no stage analyze, whose examples are needed; repeat its command with stages=auto")
    if not (run / found).is_dir():
        raise LabelError(f"{run}: what its stage analyze made is gone: there is no {run / found}")
    return run / found


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}, allowed: 0 or more")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}, allowed: 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
