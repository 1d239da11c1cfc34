"""`evaluation`: how much held-out text the arms are compared on, and beside which twins."""

from typing import Annotated

from pydantic import Field

from scae.config.active import UNNAMED
from scae.config.section import Positive, Section


class Evaluation(Section):
    tokens: Positive = Field(description="held-out tokens, at least one window")
    batch_size: Positive
    twins: bool = Field(description="also finetune random, none, dense and plain twins: what a claim needs")
    first_look: Annotated[Positive, UNNAMED] = Field(
        description="training tokens on which a model from elsewhere is compared with the frequencies of its tokens: a "
        "text that it was not made for is noticed before anything is trained"
    )
