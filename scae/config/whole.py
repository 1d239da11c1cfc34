"""The whole configuration: its groups, and the keys that belong to none of them."""

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from scae.config.activations import AnyActivations
from scae.config.analysis import Analysis
from scae.config.connectivity import Connectivity
from scae.config.data import AnyData
from scae.config.evaluation import Evaluation
from scae.config.logger import Logger
from scae.config.loss import Loss
from scae.config.model import AnyModel
from scae.config.sae import AnySae
from scae.config.section import Positive, Section, Text, distinct
from scae.config.sites import Sites
from scae.config.trainer import TrainerConfig
from scae.config.training import Finetune, Pretrain

Stage = Literal["model", "activations", "pretrain", "select", "finetune", "evaluate", "analyze"]
STAGES: tuple[Stage, ...] = get_args(Stage)


def _listed(value: Any) -> Any:
    """One name may stand without brackets."""
    return [value] if isinstance(value, str) and value != "auto" else value


class Paths(Section):
    artifacts: Text
    output: Text


class Config(Section):
    model: AnyModel
    data: AnyData
    activations: AnyActivations
    sites: Sites
    l0: Positive = Field(
        description="active features a token that a dictionary aims at: sae.k where nothing else is set"
    )
    sae: AnySae
    connectivity: Connectivity
    pretrain: Pretrain
    finetune: Finetune
    loss: Loss
    evaluation: Evaluation
    analysis: Analysis
    trainer: TrainerConfig
    logger: Logger
    paths: Paths
    stages: Annotated[
        Literal["auto"] | Annotated[list[Stage], Field(min_length=1), AfterValidator(distinct)],
        BeforeValidator(_listed),
    ] = Field(description="auto: all, but without select and finetune for a suite that the pruned pass does not serve")
    force: Annotated[list[Stage], BeforeValidator(_listed), AfterValidator(distinct)] = Field(
        description="stages to compute again, with everything made from them"
    )
    ckpt_path: str | None = Field(description="a checkpoint whose stage is resumed")
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    optimized_metric: str = Field(description="auto: the cross-entropy of the arm that the experiment is about")
