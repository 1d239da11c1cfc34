"""What a reader must not overlook in a table of arms, in words; nothing where all is well."""

from collections.abc import Iterator, Sequence

from scae.arms import ARMS
from scae.report.files import Job, Metrics, natural
from scae.report.grid import number

VISIBLE = 0.001  # nats: the last digit of the table; what it does not show is not worth a remark
DEAD = 0.8  # of a site's features; up to half are usual where training is short, at this share its width is not used
SITES_NAMED = 4

BEFORE = {
    after.key: before.key
    for after in ARMS
    for before in ARMS
    if after.finetuned and not before.finetuned and after.connections == before.connections
    if after.connections is not None or after.mode == before.mode
}
"""A finetuned arm, and the arm that is the same suite in the same pass before finetuning."""

TRAINED = tuple(arm.key for arm in ARMS if arm.own_pass and arm.connections != "random")
"""Arms that should be good for something; of random connections one expects neither predictions nor live features."""

LABELS = {arm.key: f"`{arm.label}`" for arm in ARMS} | {"lm/ce_unigram": "`unigram`"}


def remarks(metrics: Metrics) -> list[str]:
    """One sentence a finding."""
    findings = (_kept_clean, _harmed, _no_use, _no_better_than_unigram, _dead)
    return [sentence for find in findings for sentence in find(metrics)]


def remarks_by_job(jobs: Sequence[Job]) -> list[str]:
    """One line a job that has any."""
    found = {job.name: remarks(job.metrics) for job in jobs}
    return [f"job {name}: {' '.join(sentences)}" for name, sentences in found.items() if sentences]


def bullets(lines: Sequence[str]) -> str:
    """For a page."""
    return "\n".join(f"- {line}" for line in lines)


def _kept_clean(metrics: Metrics) -> Iterator[str]:
    replaced, modules = (int(metrics.get(f"lm/{key}", 0)) for key in ("replaced", "modules"))
    if 0 < replaced < modules:
        arms = "every arm but `spliced`" if "spliced/ce" in metrics else "every arm"
        yield (
            f"Dictionaries stand in for {replaced} of the model's {modules} modules. In {arms}, zero and mean ablation "
            "included, the others write what they wrote in the model's clean run: compare with suites on the same "
            "sites."
        )


def _harmed(metrics: Metrics) -> Iterator[str]:
    for after, before in BEFORE.items():
        if compared := _worse(metrics, f"{after}/ce", f"{before}/ce"):
            yield (
                f"Finetuning made {LABELS[after]} worse ({compared} before): try a lower finetune.lr, then more "
                "finetune.steps."
            )


def _no_use(metrics: Metrics) -> Iterator[str]:
    if compared := _worse(metrics, "pruned/ce", "none/ce"):
        yield (f"`pruned` is worse than {LABELS['none']} ({compared}): these connections explain nothing of the model.")


def _no_better_than_unigram(metrics: Metrics) -> Iterator[str]:
    for arm in TRAINED:
        if compared := _worse(metrics, f"{arm}/ce", "lm/ce_unigram"):
            yield f"{LABELS[arm]} is worse than token frequencies alone ({compared} for {LABELS['lm/ce_unigram']})."


def _dead(metrics: Metrics) -> Iterator[str]:
    for arm in TRAINED:
        prefix = f"{arm}/dead/"
        shares = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
        dead = sorted((site for site in shares if shares[site] > DEAD), key=natural)
        if dead:
            named = ", ".join(f"{site} ({shares[site]:.1%})" for site in dead[:SITES_NAMED])
            more = f" and {len(dead) - SITES_NAMED} more sites" if len(dead) > SITES_NAMED else ""
            yield f"In {LABELS[arm]}, more than {DEAD:.0%} of features never fire on the held-out text: {named}{more}."


def _worse(metrics: Metrics, key: str, other: str) -> str | None:
    """The two cross-entropies, where the first is visibly larger."""
    ce, reference = metrics.get(key), metrics.get(other)
    if ce is None or reference is None or not ce - reference >= VISIBLE:
        return None
    return f"CE {number(ce)} against {number(reference)}"
