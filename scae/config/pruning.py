"""What the pruned pass serves, and what an experiment does with a suite that it does not serve."""

from collections.abc import Iterator

from scae.config.whole import STAGES, Config, Stage

PRUNING: tuple[Stage, ...] = ("select", "finetune")
"""The stages of a suite that is pruned, and of no other."""


def unprunable(config: Config) -> Iterator[str]:
    """Why a suite has no dense and no pruned pass, one line a reason; nothing where it has."""
    yield from config.sites.unprunable("sites")
    yield from config.sae.unprunable("sae")


def chosen_stages(config: Config) -> list[Stage]:
    """The stages asked for; `auto` stands for all that a suite of this kind goes through."""
    if config.stages != "auto":
        return config.stages
    unpruned = any(unprunable(config))
    return [stage for stage in STAGES if not (unpruned and stage in PRUNING)]


def pruning_problems(config: Config) -> Iterator[str]:
    """Stages that were asked for by name and cannot be."""
    wanted = [stage for stage in PRUNING if config.stages != "auto" and stage in config.stages]
    for reason in unprunable(config) if wanted else ():
        yield f"{reason}; so there is nothing for {' and '.join(wanted)} to prune; allowed: stages=auto"
