"""Small random models of any architecture that transformers knows, saved as a user has them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def save_random() -> Callable[..., Any]:
    """Saves a random model that says something of its tokens, with norms and biases that no fold may forget, and its
    tokenizer; returns it as transformers runs it."""

    def save(folder: Path, config: str, network: str, sizes: dict[str, Any]) -> Any:
        import torch
        import transformers as tr

        from scae.data import train_tokenizer

        torch.manual_seed(0)
        model = getattr(tr, network)(getattr(tr, config)(**sizes)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and "A_log" not in name:
                    parameter.mul_(10)
                elif parameter.ndim == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        train_tokenizer(["one two three"], 260).save_pretrained(folder)
        return model

    return save
