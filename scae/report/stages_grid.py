"""What the stages of a run did: what became of the features, and what each stage took."""

from scae.report.files import Job
from scae.report.grid import MISSING, Grid, Row, duration, number

FEATURES = (
    "Shares of the features, mean over sites. Dead: silent for the last `sae.auxk.dead_after` tokens of training, that "
    "of earlier stages included."
)


def trained_grid(job: Job) -> Grid | None:
    """What became of the features in training, a row a stage."""
    keys = [key.split("/", 3) for key in job.metrics if key.startswith("features/")]
    rows = []
    for stage in dict.fromkeys(key[1] for key in keys):
        means = []
        for what in ("never_fired", "dead"):
            shares = [job.metrics["/".join(key)] for key in keys if key[1:3] == [stage, what]]
            means.append(number(sum(shares) / len(shares) if shares else None, 1, scale=100.0))
        rows.append(Row(cells=(stage, *means)))
    return Grid(headers=("stage", "never fired in it %", "dead at its end %"), rows=tuple(rows)) if rows else None


def costs_grid(job: Job) -> Grid | None:
    """Time and tokens, a row a stage."""
    names = [key.partition("/")[2] for key in job.metrics if key.startswith(("time/", "tokens/"))]
    stages = list(dict.fromkeys(names))
    if not stages:
        return None
    rows = []
    for stage in stages:
        seconds, tokens = job.metrics.get(f"time/{stage}"), job.metrics.get(f"tokens/{stage}")
        speed = tokens / seconds if tokens is not None and seconds else None
        rows.append(Row(cells=(stage, duration(seconds), number(tokens, 0), number(speed, 0))))
    total = sum(value for key, value in job.metrics.items() if key.startswith("time/"))
    rows.append(Row(cells=("all", duration(total), MISSING, MISSING), strong=True))
    grid = Grid(headers=("stage", "time", "tokens", "tokens/s"), rows=tuple(rows))
    return grid.without_empty_columns()
