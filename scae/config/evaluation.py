"""`evaluation`: how much held-out text the arms are compared on, and beside which twins."""

from typing import Annotated, get_args

from pydantic import Field

from scae.config.active import UNNAMED, Neutral, ReadIf
from scae.config.sae import PursuitMethod
from scae.config.section import Count, Positive, Section


class Evaluation(Section):
    tokens: Positive = Field(description="held-out tokens, at least one window")
    batch_size: Positive
    twins: bool = Field(description="also finetune random, none, dense and plain twins: what a claim needs")
    pursuit: Annotated[PursuitMethod | None, Neutral(None)] = Field(
        description="also search for better codes of the same size over the same dictionaries; null: do not"
    )
    pursuit_steps: Annotated[Count, ReadIf(pursuit=get_args(PursuitMethod))] = Field(
        description="of the search, see sae.pursuit.steps"
    )
    first_look: Annotated[Positive, UNNAMED] = Field(
        description="training tokens on which a model from elsewhere is compared with the frequencies of its tokens: a "
        "text that it was not made for is noticed before anything is trained"
    )
