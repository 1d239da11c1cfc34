"""A Hugging Face model in a folder of this machine: `local(prompt)`, decoded greedily. Nothing is sent."""

from pathlib import Path
from typing import Any

from scae.label.failures import LabelError
from scae.label.scoring import Answer


class Local:
    """folder: config, weights in safetensors, and tokenizer; longest: tokens of an answer. No code of the folder runs.

    A tokenizer with a chat template is asked in it, any other with the bare prompt.
    """

    def __init__(self, folder: Path, *, longest: int) -> None:
        if not (folder / "config.json").is_file():
            raise LabelError(f"--local {folder} is no folder of a Hugging Face model: it holds no config.json")
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, **source)
            opened: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, **source)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise LabelError(f"--local {folder} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
        self._model = opened.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self._longest = longest

    def __call__(self, prompt: str) -> Answer:
        import torch

        tokens = self._tokens(prompt).to(self._model.device)
        length = tokens.shape[1]
        room = getattr(self._model.config, "max_position_embeddings", None)
        if room is not None and length + self._longest > room:
            raise LabelError(
                f"a prompt of {length} tokens and an answer of {self._longest} are more than the {room} tokens that "
                "the local model reads; fewer --examples, or a smaller --max-tokens"
            )
        with torch.inference_mode():
            out = self._model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                max_new_tokens=self._longest,
                pad_token_id=self._padding(),
            )
        return Answer(text=self._tokenizer.decode(out[0, length:], skip_special_tokens=True))

    def _tokens(self, prompt: str) -> Any:
        if getattr(self._tokenizer, "chat_template", None):
            messages = [{"role": "user", "content": prompt}]
            text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            return self._tokenizer(text, return_tensors="pt", add_special_tokens=False, verbose=False)["input_ids"]
        return self._tokenizer(prompt, return_tensors="pt", verbose=False)["input_ids"]

    def _padding(self) -> int:
        """Of one prompt nothing is padded; generate wants a number all the same."""
        known = (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id)
        return next((token for token in known if token is not None), 0)
