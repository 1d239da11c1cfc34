"""The frozen language model: the only place that runs TransformerLens."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from transformer_lens.model_bridge.exceptions import StopAtLayerException

from scae.core.typing import Float, Int, Live, Stream, Tensor
from scae.lm.borders import hide_others
from scae.lm.modules import EMBED, Module
from scae.lm.paths import LinearPaths
from scae.lm.trace import Trace

ROWS = 1024  # tokens of the vocabulary that are looked up at a time

Replace = Callable[[Module, Stream | None, Stream], Stream]
"""(module, what it read where that was asked for, what it wrote) -> what is written instead."""


class LanguageModel:
    """A folded `TransformerBridge` and its tokenizer; a plain object: never saved, optimised or synchronised.

    paths: the frozen linear paths, in the precision that the suite computes in; bos: whether windows begin with a BOS;
    widths: of the points that traces hold beside the modules (`watch`), the size of what stands there.
    """

    def __init__(self, bridge: Any, tokenizer: Any, paths: LinearPaths, *, bos: bool) -> None:
        self.bridge = bridge
        self.tokenizer = tokenizer
        self.paths = paths
        self.bos = bos
        self.widths: dict[Module, int] = {}
        bridge.requires_grad_(False)
        bridge.eval()

    @property
    def device(self) -> torch.device:
        return self.paths.W_U.device

    @property
    def context(self) -> int:
        """The longest window that the model takes."""
        return int(self.bridge.cfg.n_ctx)

    def to(self, device: torch.device) -> "LanguageModel":
        if device != self.device:
            self.bridge.to(device)
            self.paths = self.paths.to(device)
        return self

    @torch.no_grad()
    def watch(self, module: Module) -> int:
        """The size of what a module writes, or of what stands at a point: from now on every trace holds it, and
        `splice` replaces it. What modules write, they always do.

        Raises ValueError where this model has no such point, or where what stands there is not one vector a token.
        """
        if module.writes:
            return self.paths.d_model
        if module not in self.widths:
            self.widths[module] = self._size_at(module)
        return self.widths[module]

    def _size_at(self, point: Module) -> int:
        kept: dict[str, Tensor] = {}
        tokens = torch.zeros(2, 3, dtype=torch.long, device=self.device)
        try:
            self._run(tokens, [(point.hook_out, _keep(kept, point.hook_out))], None)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{point}: {error}") from error
        if point.hook_out not in kept:
            raise ValueError(f"{point}: nothing of that name is computed on the way to the final residual stream")
        found = kept[point.hook_out]
        if found.shape[:2] != tokens.shape or found.dim() < 3 or not found.is_floating_point():
            raise ValueError(
                f"{point}: needed is one vector a token, [batch, pos, ...]; found {tuple(found.shape)} for 2 windows "
                "of 3 tokens"
            )
        return found[0, 0].numel()

    def encode(self, text: str) -> tuple[Int[Tensor, "1 pos"], Live]:
        """The tokens of a text as one window, and which of them are text."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"no tokens in the text {text!r}")
        tokens = torch.tensor([[self.tokenizer.bos_token_id] * self.bos + ids], device=self.device)
        live = torch.ones_like(tokens, dtype=torch.bool)
        live[:, : int(self.bos)] = False
        return tokens, live

    @torch.no_grad()
    def token_rows(self) -> Float[Tensor, "vocab d_model"]:
        """What the embedding writes for each token of the vocabulary, at the first position."""
        rows: list[Tensor] = []
        for tokens in torch.arange(len(self.paths.b_U), device=self.device).split(ROWS):
            kept: dict[str, Tensor] = {}
            self.bridge.run_with_hooks(
                tokens[:, None], fwd_hooks=[(EMBED.hook_out, _keep(kept, EMBED.hook_out))], stop_at_layer=1
            )
            rows.append(kept[EMBED.hook_out][:, 0].to(self.paths.W_U.dtype))
        return torch.cat(rows)

    @torch.no_grad()
    def trace(
        self,
        text: str | Int[Tensor, "batch pos"],
        live: Live | None = None,
        documents: Int[Tensor, "batch pos"] | None = None,
        *,
        patterns: bool = True,
    ) -> Trace:
        """Run the model once on a text, or on windows of tokens whose text positions are `live`: `trace(*batch)`.

        documents: the number of the document at each position, 0 for a BOS that all may read; attention stays inside.
        patterns: keep the attention patterns, which the dense and the pruned pass need.
        """
        if isinstance(text, str):
            tokens, live = self.encode(text)
        else:
            tokens = text
            live = torch.ones_like(tokens, dtype=torch.bool) if live is None else live
        kept: dict[str, Tensor] = {}
        names: set[str | None] = {EMBED.hook_out}
        for module in self.paths.modules:
            names |= {module.hook_out, self._hook_scale(module)}
            if patterns and module.kind == "attn":
                names |= {module.hook_pattern, self._hook_scale_after(module)}
        names |= {point.hook_out for point in self.widths}
        self._run(tokens, [(name, _keep(kept, name)) for name in sorted(filter(None, names))], documents)
        dtype, device = self.paths.W_U.dtype, self.device.type
        kept = {name: value.to(dtype) for name, value in kept.items()}
        unscaled = torch.ones_like(tokens[..., None], dtype=dtype)

        def stream(name: str) -> Tensor:
            return kept[name].view(*tokens.shape, -1)  # some models (OPT) have windows side by side in their MLPs

        def scale(module: Module) -> Tensor:
            name = self._hook_scale(module)
            return unscaled if name is None else stream(name)

        def pattern(module: Module) -> Tensor:
            after = self._hook_scale_after(module)
            weights = kept[module.hook_pattern]
            return weights if after is None else weights / kept[after][:, None]

        return Trace(
            tokens=tokens,
            live=live,
            embed=stream(EMBED.hook_out),
            outputs={module: stream(module.hook_out) for module in (*self.paths.modules, *self.widths)},
            scales={module: scale(module) for module in self.paths.modules},
            patterns={module.layer: pattern(module) for module in self.paths.modules if module.kind == "attn"}
            if patterns
            else None,
            documents=documents,
            autocast=torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None,
        )

    def splice(self, trace: Trace, replace: Replace, *, readers: Collection[Module]) -> dict[Module, Stream]:
        """Run the model on what was traced with what every module wrote, and what stands at every point that is
        watched, passed through `replace`; attention and normalisations stay live. readers: the modules of which
        `replace` wants to know what they read.

        The model computes in the precision of the trace, `replace` in its own: with nothing replaced the two runs are
        equal, bit for bit. Returns what each of them was in the end, and where points are watched the stream after
        every layer, which then is no longer the sum of what was written; gradients flow through the model into
        `replace`.
        """
        read: dict[Module, Tensor] = {}
        wrote: dict[Module, Tensor] = {}
        dtype = self.paths.W_U.dtype

        def keep_input(module: Module) -> Callable[..., None]:
            return lambda value, hook: read.__setitem__(module, value.to(dtype).view(*trace.tokens.shape, -1))

        def keep_output(module: Module) -> Callable[..., None]:
            return lambda value, hook: wrote.__setitem__(module, value.to(dtype))

        def rewrite(module: Module) -> Callable[..., Tensor]:
            def hook_fn(value: Tensor, hook: Any) -> Tensor:
                out = value.to(dtype).view(*trace.tokens.shape, -1)
                with self._autocast(None):
                    wrote[module] = replace(module, read.get(module), out)
                return wrote[module].to(value.dtype).view(value.shape)

            return hook_fn

        hooks: list[tuple[str, Callable]] = []
        for module in (*self.paths.modules, *self.widths):
            if module in readers:
                hooks.append((self.hook_read(module), keep_input(module)))
            hooks.append((module.hook_out, rewrite(module)))
        streams = [Module(layer, "resid") for layer in range(self.paths.n_layers)] if self.widths else []
        hooks += [(stream.hook_out, keep_output(stream)) for stream in streams if stream not in self.widths]
        with self._autocast(trace.autocast):
            self._run(trace.tokens, hooks, trace.documents)
        return wrote

    def hook_read(self, module: Module) -> str:
        """The TransformerLens name of what a module reads, centred and scaled."""
        norm = self._norm(module)
        return f"blocks.{module.layer}.{module.kind}.hook_in" if norm is None else f"{norm}.hook_normalized"

    def _norm(self, module: Module) -> str | None:
        """The normalisation that a module reads through: its own, or the only one of a parallel block; None in models
        that normalise outputs alone."""
        block = self.bridge.blocks[module.layer]
        own = "ln1" if module.kind == "attn" else "ln2"
        found = [name for name in (own, "ln1") if hasattr(block, name)]
        return f"blocks.{module.layer}.{found[0]}" if found else None

    def _hook_scale(self, module: Module) -> str | None:
        norm = self._norm(module)
        return None if norm is None else f"{norm}.hook_scale"

    def _hook_scale_after(self, module: Module) -> str | None:
        """The scale by which an attention output is divided before it joins the stream; None where it is not."""
        after = hasattr(self.bridge.blocks[module.layer], "ln1_post")
        return f"blocks.{module.layer}.ln1_post.hook_scale" if after else None

    def _autocast(self, dtype: torch.dtype | None) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _run(
        self,
        tokens: Int[Tensor, "batch pos"],
        hooks: list[tuple[str, Callable]],
        documents: Int[Tensor, "batch pos"] | None,
    ) -> None:
        """One run up to the final residual stream; logits are made from it by `LinearPaths.logits` where needed."""
        if documents is not None:
            hide = hide_others(documents)
            hooks = [(module.hook_scores, hide) for module in self.paths.modules if module.kind == "attn"] + hooks
        final = "ln_final.hook_in"
        hooks = [*hooks, (final, _stop)] if final in self.bridge.hook_dict else hooks
        self.bridge.run_with_hooks(tokens, fwd_hooks=hooks)


def _stop(value: Tensor, hook: Any) -> None:
    """What comes behind is not needed: with a large vocabulary it costs more than the layers."""
    raise StopAtLayerException(value)


def _keep(kept: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook_fn(value: Tensor, hook: Any) -> None:
        kept[name] = value.detach()

    return hook_fn
