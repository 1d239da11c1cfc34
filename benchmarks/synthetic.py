"""A language model of random weights, clean runs of it, and a suite for it, all from a seed.

The benchmarks need the shape of a model and numbers of sensible size, not what a model knows: streams, attention
patterns and outputs come from random weights, and only the linear paths are those of a real model.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from scae.config import Connectivity
from scae.connections import Connections
from scae.core.typing import Float, Stream, Tensor
from scae.dictionaries import Shape, create
from scae.lm import LanguageModel, LinearPaths, Module, Trace
from scae.lm.paths import Attention, Direct
from scae.selection import choose
from scae.suite import Suite, choose_sites

VOCAB = 512


@dataclass(frozen=True)
class Sizes:
    """The shape of a model, its suite and a batch; the defaults are those of Pythia-70M."""

    layers: int = 6
    d_model: int = 512
    heads: int = 8
    features: int = 2048
    k: int = 128
    C: int = 96
    windows: int = 8
    context: int = 128
    kv_heads: int | None = None
    parallel: bool = True
    centred: bool = True

    @property
    def tokens(self) -> int:
        return self.windows * self.context

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def shown(self) -> dict[str, Any]:
        """What stands in the table."""
        return {
            "L": self.layers,
            "d": self.d_model,
            "H": self.heads,
            "F": self.features,
            "k": self.k,
            "C": self.C,
            "tokens": self.tokens,
            "context": self.context,
        }


QUICK = Sizes(layers=2, d_model=64, heads=4, features=256, k=16, C=16, windows=4, context=32)


class SyntheticModel(LanguageModel):
    """A language model that is nothing but linear paths and random modules. `draw` gives clean runs of it."""

    def __init__(self, sizes: Sizes, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self.sizes = sizes
        self.bos = True
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, std: float) -> Tensor:
            return (torch.randn(shape, generator=generator, dtype=torch.float64) * std).to(dtype)

        layers, d, heads, kv_heads = sizes.layers, sizes.d_model, sizes.heads, sizes.kv_heads or sizes.heads
        d_head = d // heads
        self.paths = LinearPaths(
            W_V=normal(layers, kv_heads, d, d_head, std=d**-0.5),
            W_O=normal(layers, heads, d_head, d, std=d**-0.5),
            b_O=normal(layers, d, std=0.1),
            W_U=normal(d, VOCAB, std=d**-0.5),
            b_U=normal(VOCAB, std=0.1),
            centred=sizes.centred,
            eps=1e-5,
            parallel=sizes.parallel,
        )
        self._embed = normal(VOCAB, d, std=1.0)
        self._mlp_in = normal(layers, d, d, std=d**-0.5)
        self._mlp_out = normal(layers, d, d, std=d**-0.5)

    def to(self, device: torch.device) -> "SyntheticModel":
        self.paths = self.paths.to(device)
        self._embed, self._mlp_in, self._mlp_out = (
            tensor.to(device) for tensor in (self._embed, self._mlp_in, self._mlp_out)
        )
        return self

    @torch.no_grad()
    def draw(self, *, seed: int) -> Trace:
        """A clean run on a batch of random tokens, of frequencies as in text; a BOS stands at 0 and is not live."""
        sizes, paths = self.sizes, self.paths
        generator = torch.Generator().manual_seed(1000 + seed)
        shape = (sizes.windows, sizes.context)
        frequency = 1 / torch.arange(1, VOCAB + 1, dtype=torch.float64)
        tokens = torch.multinomial(frequency, sizes.tokens, replacement=True, generator=generator).view(shape)
        tokens = tokens.to(self.device)
        noise = torch.randn(*shape, sizes.d_model, generator=generator, dtype=torch.float64)
        embed = self._embed[tokens] + 0.5 * noise.to(self._embed)
        live = torch.ones(shape, dtype=torch.bool, device=self.device)
        live[:, 0] = False
        trace = Trace(tokens, live, embed, {}, {}, {})
        assert trace.patterns is not None
        stream = embed
        for level in paths.levels:
            for module in level:
                trace.scales[module] = (paths.centre(stream).square().mean(-1, keepdim=True) + paths.eps).sqrt()
                if module.kind == "attn":
                    trace.patterns[module.layer] = self._pattern(generator)
                trace.outputs[module] = self._output(module, stream, trace)
            for module in level:
                stream = stream + trace.outputs[module]
        return trace

    def _pattern(self, generator: torch.Generator) -> Float[Tensor, "batch head query key"]:
        windows, heads, context = self.sizes.windows, self.sizes.heads, self.sizes.context
        logits = 2 * torch.randn(windows, heads, context, context, generator=generator, dtype=torch.float64)
        causal = torch.ones(context, context, dtype=torch.bool).tril()
        return logits.masked_fill(~causal, -torch.inf).softmax(-1).to(self._embed)

    def _output(self, module: Module, stream: Stream, trace: Trace) -> Stream:
        if module.kind == "attn":
            return Attention(self.paths, module).read(stream, trace)
        x = Direct(self.paths, module).read(stream, trace)
        return torch.relu(x @ self._mlp_in[module.layer]) @ self._mlp_out[module.layer]


@torch.no_grad()
def make_suite(model: SyntheticModel, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Suite:
    """A dictionary at every site: random, its reconstructions about as large as their targets, every bias non-zero."""
    sizes = model.sizes
    torch.manual_seed(seed)
    dictionaries = {
        site: create(
            Shape(sizes.features, sizes.d_model, sizes.d_model, site.transcoder),
            type="topk",
            k=sizes.k,
        )
        for site in choose_sites(model.paths, "all", ("attn", "mlp"))
    }
    suite = Suite(dictionaries, model).to(device=model.device, dtype=dtype)
    suite.chunk_mb = 1024 if model.device.type == "cuda" else 32  # conf/trainer
    trace = model.draw(seed=-1)

    def random_like(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape).to(tensor)

    for site in suite.sites:
        target = trace.outputs[site.module][trace.live]
        suite[site].decoder.b.copy_(target.mean(0) + 0.1 * target.std() * random_like(suite[site].decoder.b))
    out = suite(trace, mode="plain")
    for site in suite.sites:
        dictionary, live = suite[site], trace.live
        wanted = trace.outputs[site.module][live] - dictionary.decoder.b
        factor = wanted.norm() / (out.outputs[site.module][live] - dictionary.decoder.b).norm()
        dictionary.encoder.W.mul_(factor)
        read = 1.0 if dictionary.transcoder else wanted.square().mean().sqrt()  # a normalised stream, or the target
        dictionary.encoder.b.copy_(0.3 * factor * read * random_like(dictionary.encoder.b))
    return suite


def connect(suite: Suite, sizes: Sizes, method: str, *, seed: int = 0) -> None:
    """Connections by their measured contributions on another batch, random ones, or those of a .safetensors."""
    model = suite.lm
    assert isinstance(model, SyntheticModel)
    if method.endswith(".safetensors"):
        suite.connect(Connections.load(Path(method)))
        return
    config = Connectivity(
        method=method,  # type: ignore[arg-type]  # checked by pydantic
        C=sizes.C,
        scope="joint",
        budget="even",
        spread=1,
        weighting="activation",
        tokens=sizes.tokens,
        chunk_mb=256,
        path=None,
    )
    connections, _ = choose(config, suite, lambda: [model.draw(seed=seed + 1)], seed=seed)
    suite.connect(connections)
