"""How much of a batch its worst tokens own: a loss that one token can own trains the suite for that token.

    share = (sum over the worst 0.1 % of the batch's text tokens, at least one) / (sum over all of them)

of the loss (what each token adds to the terms that can be split by token) and of the gradient (the norm of the loss'
derivatives with respect to a token's activations at all sites, which covers every path from them to the loss). Even
tokens give 0.001. Measured on logging steps only, and in a distributed run on every process' share of the batch: the
largest is logged.
"""

import logging
from dataclasses import dataclass
from typing import Any

import lightning
import torch

from scae.core.typing import Float, Live, Tensor
from scae.lm import LanguageModel, Trace
from scae.suite import SuiteOutput
from scae.training.steps import ends_step

log = logging.getLogger(__name__)
WORST = 0.001
CONTEXT_SHOWN = 8  # tokens before the worst one


@dataclass(frozen=True)
class Owned:
    """Something that tokens have a share in. each: what a token has of it; parts: the same by place."""

    what: str
    each: Float[Tensor, "batch pos"]
    parts: dict[str, Float[Tensor, "batch pos"]]

    def share(self, live: Live) -> Float[Tensor, ""]:
        return share_of_worst(self.each[live])

    def worst(self, live: Live) -> tuple[int, int]:
        """The window of the batch and the position of the token that has most."""
        at = int(self.each.masked_fill(~live, -1.0).argmax())
        return divmod(at, live.shape[1])


class WorstTokens(lightning.Callback):
    """Logs `train/worst_share` and `train/worst_share_gradient`; warns once where one of them exceeds `threshold`."""

    def __init__(self, stage: str, threshold: float) -> None:
        self.stage, self.threshold = stage, threshold
        self._warned = False

    def on_before_backward(self, trainer: lightning.Trainer, pl_module: Any, loss: Float[Tensor, ""]) -> None:
        if _is_logged(trainer):
            for code in pl_module.computed[1].codes.values():
                if code.value.requires_grad:  # a code that was searched for has no gradient
                    code.value.retain_grad()

    @torch.no_grad()
    def on_after_backward(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if not _is_logged(trainer):
            return
        trace, out = pl_module.computed
        parts = pl_module.objective.by_token(out, trace, pl_module.suite.lm.paths)
        candidates = [Owned("loss", _total(list(parts.values())), parts)] if parts else []
        candidates += _gradient(out)
        if not candidates:
            return
        own = torch.stack([owned.share(trace.live) for owned in candidates])
        largest = trainer.strategy.reduce(own.clone(), reduce_op="max")
        names = {"loss": "train/worst_share", "gradient": "train/worst_share_gradient"}
        pl_module.log_dict({names[owned.what]: share for owned, share in zip(candidates, largest, strict=True)})
        if self._warned or not float(largest.max()) > self.threshold:  # a NaN is none of this warning's business
            return
        self._warned = True
        which = int(largest.argmax())
        if own[which] == largest[which]:  # the process that has the token can name it
            log.warning("%s", self._told(trainer, pl_module, trace, candidates[which]))

    def _told(self, trainer: Any, module: Any, trace: Trace, owned: Owned) -> str:
        row, position = owned.worst(trace.live)
        n_live = int(trace.live.sum())
        step, windows = trainer.fit_loop.epoch_loop.batch_idx, len(trace.tokens)
        where = trainer.datamodule.place(step, trainer.global_rank * windows + row, position)
        place = max(owned.parts, key=lambda part: float(owned.parts[part][row, position]))
        text = _text(module.suite.lm, trace.tokens[row], position)
        return (
            f"{self.stage}, step {trainer.global_step + 1}: {n_worst(n_live)} of {n_live:,} tokens hold "
            f"{float(owned.share(trace.live)):.0%} of the {owned.what} (trainer.worst_share_warning={self.threshold}). "
            f"The worst is {text}, {where}, most of it in {place}. Said once; "
            "train/worst_share and train/worst_share_gradient are logged"
        )


def n_worst(n_tokens: int) -> int:
    return max(1, round(WORST * n_tokens))


def share_of_worst(each: Float[Tensor, " token"]) -> Float[Tensor, ""]:
    """What the worst tokens have of the sum over all."""
    return each.topk(n_worst(len(each))).values.sum() / each.sum().clamp_min(torch.finfo(each.dtype).tiny)


def _is_logged(trainer: Any) -> bool:
    """Whether Lightning writes the metrics of this micro-step: it ends an optimiser step, and not every one is."""
    ends = ends_step(trainer, trainer.fit_loop.epoch_loop.batch_idx)
    return ends and (trainer.global_step + 1) % trainer.log_every_n_steps == 0


def _gradient(out: SuiteOutput) -> list[Owned]:
    """What the loss asks of the activations; nothing where none has a gradient."""
    squares = {}
    for site, code in out.codes.items():
        if code.value.grad is not None:
            by_token = code.value.new_zeros(code.n_tokens).index_add_(0, code.row, code.value.grad.square())
            squares[str(site)] = by_token.view(out.live.shape)
    return [Owned("gradient", _total(list(squares.values())).sqrt(), squares)] if squares else []


def _total(parts: list[Float[Tensor, "batch pos"]]) -> Float[Tensor, "batch pos"]:
    return torch.stack(parts).sum(0)


def _text(lm: LanguageModel, tokens: Tensor, position: int) -> str:
    """A token and what comes before it, escaped."""
    if lm.tokenizer is None:
        return f"token {int(tokens[position])} (the model has no tokenizer)"
    before = tokens[max(0, position - CONTEXT_SHOWN) : position].tolist()
    return f"{lm.tokenizer.decode([int(tokens[position])])!r} after {lm.tokenizer.decode(before)!r}"
