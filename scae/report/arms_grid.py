"""The one table of arms. CE recovered = (CE zero - CE) / (CE zero - CE model); means over sites are unweighted."""

from collections.abc import Iterable

from scae.arms import Arm
from scae.report.arms import present, result
from scae.report.files import Metrics, ReportError, natural
from scae.report.grid import Grid, Row, number

HEADERS = ("arm", "CE", "ΔCE", "CE rec. %", "KL", "top-1 %", "FVU mean", "FVU max", "L0 mean", "dead %", "conn. rec. %")
REFERENCES = (("lm/ce_mean", "mean ablation"), ("lm/ce_unigram", "unigram"), ("lm/ce_zero", "zero ablation"))


def sites(metrics: Metrics, name: str) -> tuple[str, ...]:
    """The sites for which some `<arm>/<name>/<site>` exists, in the order of a forward pass."""
    parts = (key.split("/", 2) for key in metrics)
    return tuple(sorted({part[2] for part in parts if len(part) == 3 and part[1] == name}, key=natural))


def site_mean(metrics: Metrics, arm: Arm, name: str) -> float | None:
    """The mean over sites of `<arm>/<name>/<site>`."""
    values = [value for key, value in metrics.items() if key.startswith(f"{arm.key}/{name}/")]
    return sum(values) / len(values) if values else None


def recovered(metrics: Metrics, ce: float) -> float | None:
    """The share of the loss between zero ablation and the model that is won back at cross-entropy `ce`."""
    zero, model = metrics.get("lm/ce_zero"), metrics.get("lm/ce")
    return None if zero is None or model is None or zero == model else (zero - ce) / (zero - model)


def compares_arms(metrics: Metrics) -> bool:
    """Whether there is a table of arms to these numbers."""
    return "lm/ce" in metrics or bool(present(metrics))


def arms_grid(metrics: Metrics) -> Grid:
    """The model, its arms, and the ablations as references; columns without any value are left out."""
    metrics = {key: float(value) for key, value in metrics.items()}
    arms = present(metrics)
    if not compares_arms(metrics):
        raise ReportError("the metrics hold neither lm/ce nor any arm: has the evaluate stage run?")
    rows = [*_references(metrics, [("lm/ce", "model")]), *(_arm_row(metrics, arm) for arm in arms)]
    if arms:
        last = rows.pop()
        rows.append(Row(cells=last.cells, strong=last.strong, ends=True))
    rows.extend(_references(metrics, REFERENCES))
    return Grid(headers=HEADERS, rows=tuple(rows)).without_empty_columns()


def _arm_row(metrics: Metrics, arm: Arm) -> Row:
    def get(name: str) -> float | None:
        return metrics.get(f"{arm.key}/{name}")

    cells = (
        arm.label,
        number(get("ce")),
        number(get("ce_diff"), sign=True),
        number(get("ce_recovered"), 1, scale=100.0),
        number(get("kl")),
        number(get("top1"), 1, scale=100.0),
        number(get("fvu_mean")),
        number(get("fvu_max")),
        number(site_mean(metrics, arm, "l0"), 1),
        number(site_mean(metrics, arm, "dead"), 1, scale=100.0),
        number(get("connected_recovered"), 1, scale=100.0),
    )
    return Row(cells=cells, strong=arm == result(metrics))


def _references(metrics: Metrics, named: Iterable[tuple[str, str]]) -> list[Row]:
    """Rows that only have a cross-entropy, best first."""
    found = sorted((metrics[key], label, key) for key, label in named if key in metrics)
    model = metrics.get("lm/ce")
    rows = []
    for ce, label, key in found:
        is_model = key == "lm/ce"
        difference = None if is_model or model is None else ce - model
        share = None if is_model else recovered(metrics, ce)
        cells = (label, number(ce), number(difference, sign=True), number(share, 1, scale=100.0))
        rows.append(Row(cells=cells + (number(None),) * (len(HEADERS) - len(cells)), faint=True, ends=is_model))
    return rows
