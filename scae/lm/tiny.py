"""The embedded language model: a small Llama-style transformer, trained here and saved as any Hugging Face model."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from scae.config import TinyModel
from scae.core.schedule import trapezoid
from scae.core.typing import Bool, Float, Int, Tensor
from scae.lm.borders import visible


def build_tiny(config: TinyModel, tokenizer: PreTrainedTokenizerBase, *, context: int) -> LlamaForCausalLM:
    """A freshly initialised model for the tokens of `tokenizer`."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.d_model,
            intermediate_size=config.d_mlp,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            max_position_embeddings=context,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class TinyTraining(lightning.LightningModule):
    """Next-token prediction with AdamW."""

    def __init__(self, model: LlamaForCausalLM, config: TinyModel, *, identity: dict) -> None:
        super().__init__()
        self.save_hyperparameters(identity)
        self.model, self.config = model, config

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = next_token_loss(self._logits(batch), batch.tokens, batch.live)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def _logits(self, batch: Any) -> Float[Tensor, "batch pos vocab"]:
        mask = None if batch.documents is None else visible(batch.documents)[:, None]
        return self.model(batch.tokens, attention_mask=mask, use_cache=False).logits

    def parts(self) -> dict[str, nn.Module]:
        return {"the language model": self.model}

    def on_the_way(self, batch: Any) -> Iterator[tuple[str, Tensor]]:
        yield "the logits", self._logits(batch)

    def configure_optimizers(self) -> Any:
        config = self.config
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
        )
        factor = partial(trapezoid, steps=config.steps, warmup=config.warmup, decay=config.decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def next_token_loss(
    logits: Float[Tensor, "batch pos vocab"], tokens: Int[Tensor, "batch pos"], live: Bool[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    """Cross-entropy of every text token given what comes before it, the BOS included."""
    return F.cross_entropy(logits[:, :-1][live[:, 1:]], tokens[:, 1:][live[:, 1:]])


def save_tiny(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """An ordinary Hugging Face directory."""
    disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
