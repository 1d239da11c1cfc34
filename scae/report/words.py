"""What the tables and plots of a run are, in words."""

from scae.report.files import Job, Metrics
from scae.report.grid import Grid

COLUMNS = (
    "CE in nats per token, on held-out text: no BOS, separator or padding, and nothing foretold from a BOS alone, for "
    "the model as for every arm. ΔCE: above the model. CE rec.: share of the way from zero ablation to the model. KL: "
    "model against arm. top-1: the arm's likeliest token is the model's. FVU: fraction of variance unexplained over "
    "the whole held-out text, mean and largest over sites. L0: features active per token, at thresholds (BatchTopK) "
    "learned in the arm's own pass, and dead: features that never fired in it, mean over sites."
)
CONNECTED = " conn. rec.: share of the way from no connections (finetuned) to the model."
CURVES = (
    "Terms before weighting. Dotted: on training text that no step draws, at thresholds of inference (`validation`); "
    "dead features are revived in training only, so `auxk` is no part of that loss."
)
CEILING = (
    "Beside its ceiling, the suite finetuned with every connection, the pruned suite has {ce:+.3f} nats of "
    "cross-entropy and {fvu:+.3f} of mean FVU."
)


def columns(grid: Grid) -> str:
    """Of the table of arms."""
    return COLUMNS + (CONNECTED if any(header.startswith("conn.") for header in grid.headers) else "")


def ceiling(metrics: Metrics) -> list[str]:
    """What the choice of connections costs, where the dense twin ran."""
    if "pruned/above_dense" not in metrics:
        return []
    fvu = metrics["pruned/fvu_mean"] - metrics["dense_finetuned/fvu_mean"]
    return [CEILING.format(ce=metrics["pruned/above_dense"], fvu=fvu)]


def asked(job: Job) -> list[str]:
    """What was asked for, and what else was chosen."""
    lines = []
    if job.overrides:
        lines.append(f"Overrides: `{' '.join(f'{key}={value}' for key, value in job.overrides.items())}`")
    chosen = {group: option for group, option in job.choices.items() if option not in (None, "None", "null")}
    groups = {group: option for group, option in chosen.items() if not group.startswith("hydra/")}
    if groups:
        lines.append("Config: " + ", ".join(f"{group} = `{option}`" for group, option in groups.items()))
    if job.status == "failed":
        lines.append(f"**This run failed after its evaluation: {job.error or 'it left no message'}**")
    return lines
