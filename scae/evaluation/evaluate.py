"""The numbers of the table of arms, and whatever else looks at the same text.

An analysis or a statistic more is an `Observer` (`scae.evaluation.walk`) in a file of its own, and a line here or where
`evaluate` is called.
"""

from collections.abc import Callable, Iterable, Sequence

from scae.evaluation.arms import Arm
from scae.evaluation.moments import Moments
from scae.evaluation.predictions import Predictions
from scae.evaluation.reconstructions import Reconstructions
from scae.evaluation.walk import Metrics, Observer, walk
from scae.lm import LanguageModel, Trace


def evaluate(
    lm: LanguageModel, arms: Sequence[Arm], traces: Callable[[], Iterable[Trace]], also: Sequence[Observer] = ()
) -> Metrics:
    """Every metric of every arm, and what the others that are `also` there find.

    `traces()` runs over the held-out windows; it is called twice, for the means first.
    """
    moments = Moments(list(dict.fromkeys(site for arm in arms for site in arm.suite.sites)))
    walk(lm, [], traces(), [moments])
    return walk(lm, arms, traces(), [Predictions(moments), Reconstructions(moments), *also])
