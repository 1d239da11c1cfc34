"""`trainer`: the machine that a fit runs on, and what every optimiser step has in common."""

from typing import Annotated, Literal

from pydantic import Field

from scae.config.section import Fraction, Positive, Rate, Section


class TrainerConfig(Section):
    accelerator: Literal["auto", "cpu", "cuda"] = Field(
        description="auto: cuda where it is there, else cpu; never Apple's mps, which has no float64"
    )
    devices: Literal["auto"] | Positive
    num_nodes: Positive
    strategy: Literal["auto", "ddp"] = Field(
        description="ddp starts each process by the command itself; a GPU cannot be used in a forked one"
    )
    precision: Literal["32-true", "bf16-mixed"]
    accumulate: Positive = Field(description="micro-steps an optimiser step")
    clip: Rate | None = Field(description="largest gradient norm of each dictionary; null: no clipping")
    chunk_mb: Positive = Field(description="bound on the pre-activations of one site held at a time")
    checkpoint_minutes: Annotated[float, Field(gt=0, le=10**6)]
    worst_share_warning: Fraction = Field(
        description="share of a batch's loss or gradient in its worst 0.1 % of tokens above which the log warns, once"
    )
    progress: bool
