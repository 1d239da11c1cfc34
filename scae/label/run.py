"""Many features, several at a time, each recorded once it is known."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from scae.label.questions import Feature
from scae.label.scoring import Asked, Outcome, label


@dataclass
class Tally:
    """outcomes: of this run, in the order in which they were known."""

    outcomes: list[Outcome] = field(default_factory=list)

    def summary(self, asked: int) -> str:
        """One line."""
        done = [outcome for outcome in self.outcomes if outcome.label is not None]
        parts = [f"labelled {len(done)} of {asked} features"]
        for problem, name in (("refusal", "refused"), ("unparseable", "without a readable description")):
            if count := sum(outcome.problem == problem for outcome in self.outcomes):
                parts.append(f"{count} {name}")
        if unread := sum(outcome.unread for outcome in done):
            parts.append(f"{unread} of {sum(outcome.questions for outcome in done)} answers about snippets unreadable")
        for name in ("detection", "fuzzing"):
            scores = [score for outcome in done if (score := getattr(outcome, name)) is not None]
            if scores:
                parts.append(f"mean {name} {sum(scores) / len(scores):.2f}")
        return ", ".join(parts)


def run(
    features: Sequence[Feature],
    asked: Asked,
    *,
    concurrency: int,
    known: Callable[[Outcome], None],
    stop: Callable[[], None],
) -> None:
    """known: is told each outcome, in this thread. stop: called where one fails, so that the others ask no more; what
    they know by then is told before the failure is raised."""
    waiting: set[Future[Outcome]] = set()
    failure: BaseException | None = None
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            waiting = {pool.submit(label, feature, asked) for feature in features}
            while waiting and failure is None:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                failure = _tell(done, known)
        except BaseException as error:
            failure = error
        if failure is not None:
            stop()
            for future in waiting:
                future.cancel()
    if failure is not None:
        _tell({future for future in waiting if not future.cancelled()}, known)
        raise failure


def _tell(done: set[Future[Outcome]], known: Callable[[Outcome], None]) -> BaseException | None:
    """The first failure among those that have ended."""
    failure: BaseException | None = None
    for future in done:
        if (error := future.exception()) is None:
            known(future.result())
        else:
            failure = failure or error
    return failure
