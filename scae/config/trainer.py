"""`trainer`: the machine that a fit runs on, and what every optimiser step has in common.

Devices decide no result: a batch is counted over all of them.
"""

from typing import Annotated, Literal

from pydantic import Field

from scae.config.active import UNNAMED, Neutral
from scae.config.section import Count, Fraction, Positive, Rate, Section


class TrainerConfig(Section):
    accelerator: Annotated[Literal["auto", "cpu", "cuda"], UNNAMED] = Field(
        description="auto: cuda where it is there, else cpu; never Apple's mps, which has no float64"
    )
    devices: Annotated[Literal["auto"] | Positive, UNNAMED]
    num_nodes: Annotated[Positive, UNNAMED]
    strategy: Annotated[Literal["auto", "ddp"], UNNAMED] = Field(
        description="ddp starts each process by the command itself; a GPU cannot be used in a forked one"
    )
    precision: Literal["32-true", "bf16-mixed"]
    accumulate: Annotated[Positive, Neutral(1)] = Field(
        description="micro-steps an optimiser step, whose losses, each a mean over its own text tokens, are averaged; "
        "BatchTopK cuts each by itself"
    )
    clip: Annotated[Rate | None, Neutral(None)] = Field(
        description="largest gradient norm of each dictionary; null: no clipping"
    )
    chunk_mb: Annotated[Positive, UNNAMED] = Field(
        description="bound on the pre-activations of one site held at a time"
    )
    checkpoint_minutes: Annotated[float, Field(gt=0, le=10**6), UNNAMED]
    checkpoint_steps: Annotated[Positive | None, UNNAMED] = Field(
        description="optimiser steps between two checkpoints beside those every checkpoint_minutes; null: only those"
    )
    keep_checkpoints: Annotated[Literal["all"] | Count, UNNAMED] = Field(
        description="suites as they were at the last so many of the checkpoint_steps, in steps/ of the artifact, for "
        "whoever studies training; a stage that is finished already gets none unless it is forced"
    )
    worst_share_warning: Annotated[Fraction, UNNAMED] = Field(
        description="share of a batch's loss or gradient in its worst 0.1 % of tokens above which the log warns, once"
    )
    progress: Annotated[bool, UNNAMED]
