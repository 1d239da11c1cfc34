"""Tiny random language models of three architectures, and suites and connections for them.

torch and `scae` are imported inside the fixtures, so that tests which need neither start at once.
"""

import copy
import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # before torch and numba are imported, which no line above does
if not os.path.exists("/dev/nvidiactl"):
    os.environ["TRITON_INTERPRET"] = "1"  # before Lightning imports triton: kernels for a GPU run without one
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

SHAPED = 300  # calls of a test whose shapes are checked: a check takes longer than what many of the calls do
_shaped = 0
VOCAB, D_MODEL, POS = 40, 16, 7
ARCHITECTURES = ("gpt2", "neox", "llama")


def pytest_configure(config: pytest.Config) -> None:
    """Check the shapes that functions and dataclasses are annotated with, in the first `SHAPED` calls of a test.

    jaxtyping looks at its switch at every call. What has no shape is left to mypy, and a function inside another is not
    checked: to decorate it anew at every call takes longer than what many of them do.
    """
    import jaxtyping

    if hasattr(config, "workerinput"):  # it comes to need them all; what scae is the first to import is compiled anew
        from commands import LIBRARIES

        for name in LIBRARIES:
            importlib.import_module(name)

    def off(_: Any) -> bool:
        global _shaped
        _shaped += 1
        return _shaped > SHAPED

    def shaped(*, typechecker: Any) -> Callable[[Any], Any]:
        def decorate(one: Any) -> Any:
            has_shapes = any("jaxtyping." in repr(hint) for hint in getattr(one, "__annotations__", {}).values())
            return jaxtyped(one, typechecker=typechecker) if has_shapes and "<locals>" not in one.__qualname__ else one

        return decorate

    if not jaxtyping.config.jaxtyping_disable:
        jaxtyped, jaxtyping.jaxtyped = jaxtyping.jaxtyped, shaped
        type(jaxtyping.config).jaxtyping_disable = property(off)


def pytest_runtest_setup() -> None:
    global _shaped
    _shaped = 0


def _hugging_face(architecture: str) -> Any:
    """gpt2: sequential LayerNorm; neox: parallel attention; llama: RMSNorm, gated MLP, 4 heads on 2 key-value heads."""
    import transformers as tr

    if architecture == "gpt2":
        config = tr.GPT2Config(n_embd=D_MODEL, n_layer=2, n_head=2, vocab_size=VOCAB, n_positions=32)
        return tr.GPT2LMHeadModel(config)
    sizes = {
        "hidden_size": D_MODEL,
        "intermediate_size": 24,
        "vocab_size": VOCAB,
        "max_position_embeddings": 32,
        "num_attention_heads": 2 if architecture == "neox" else 4,
    }
    if architecture == "neox":
        return tr.GPTNeoXForCausalLM(tr.GPTNeoXConfig(num_hidden_layers=3, **sizes))
    return tr.LlamaForCausalLM(tr.LlamaConfig(num_hidden_layers=2, num_key_value_heads=2, **sizes))


def _in_double(hf: Any) -> None:
    """Let RMSNorm compute in the precision of its input: Hugging Face's rounds to float32, whatever the model is in."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    class DoubleRMSNorm(LlamaRMSNorm):
        def forward(self, x: Any) -> Any:
            return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    for module in hf.modules():
        if isinstance(module, LlamaRMSNorm):
            module.__class__ = DoubleRMSNorm


def _build(architecture: str) -> SimpleNamespace:
    import torch
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    from scae.lm import wrap

    torch.manual_seed(ARCHITECTURES.index(architecture))
    hf = _hugging_face(architecture).double().eval()
    hf.config._attn_implementation = "eager"
    _in_double(hf)
    for name, parameter in hf.named_parameters():
        if parameter.ndim > 1:
            parameter.data *= 10
        else:
            is_scale = name.endswith("weight")
            parameter.data = torch.randn_like(parameter) * 0.3 + is_scale
    original = copy.deepcopy(hf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = build_bridge_from_module(
            hf,
            architecture=type(hf).__name__,
            hf_config=hf.config,
            tokenizer=None,
            device="cpu",
            dtype=torch.float64,
        )
        lm = wrap(bridge, None, bos=True, dtype=torch.float64)
    return SimpleNamespace(architecture=architecture, hf=original, lm=lm)


_built: dict[str, SimpleNamespace] = {}


@pytest.fixture(scope="session")
def build_tiny() -> Callable[[str], SimpleNamespace]:
    """A tiny model by architecture: `.architecture`, `.hf` as Hugging Face runs it, `.lm` folded; built once."""

    def build(architecture: str) -> SimpleNamespace:
        if architecture not in _built:
            _built[architecture] = _build(architecture)
        return _built[architecture]

    return build


@pytest.fixture(scope="session")
def save_llama() -> Callable[..., Path]:
    """Writes a random Llama, of two layers where nothing else is said, and a tokenizer of `text` into a folder."""

    def save(folder: Path, *, text: str = "one two three", vocab_size: int = 260, **config: Any) -> Path:
        from transformers import LlamaConfig, LlamaForCausalLM

        from scae.data import train_tokenizer

        tokenizer = train_tokenizer([text], vocab_size)
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        sizes |= {"vocab_size": len(tokenizer), "max_position_embeddings": 32} | ids | config
        LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def tiny(architecture: str, build_tiny: Callable[[str], SimpleNamespace]) -> SimpleNamespace:
    return build_tiny(architecture)


@pytest.fixture(scope="session")
def lm(tiny: SimpleNamespace) -> Any:
    """The folded model in float64."""
    return tiny.lm


@pytest.fixture(scope="session")
def batch() -> tuple[Any, Any]:
    """Tokens and live positions: a BOS at 0 of every window, and two positions of right padding in the last."""
    import torch

    tokens = torch.randint(VOCAB, (3, POS), generator=torch.Generator().manual_seed(7))
    live = torch.ones_like(tokens, dtype=torch.bool)
    live[:, 0] = False
    live[-1, -2:] = False
    return tokens, live


@pytest.fixture(scope="session")
def trace(lm: Any, batch: tuple[Any, Any]) -> Any:
    return lm.trace(*batch)


def _all_sites(lm: Any) -> list[Any]:
    from scae.suite import choose_sites

    return choose_sites(lm.paths, "all", ("attn", "mlp"))


@pytest.fixture(scope="session")
def all_sites() -> Callable[[Any], list[Any]]:
    """`all_sites(lm)`: a site at every module of a model, in order."""
    return _all_sites


@pytest.fixture(scope="session")
def make_suite() -> Callable[..., Any]:
    """`make_suite(lm, activation="topk", n_features=9, sites=None, ends=(), seed=0, auxk=None)`: a suite in float64,
    every parameter and every unit random, half of the activations bounded, no two sites of the same size."""

    def make(
        lm: Any,
        *,
        activation: str = "topk",
        n_features: int = 9,
        sites: Any = None,
        ends: Any = (),
        seed: int = 0,
        auxk: Any = None,
    ) -> Any:
        import torch

        from scae.dictionaries import Shape, create
        from scae.sites import further
        from scae.suite import Suite

        settings: dict[str, dict[str, Any]] = {
            "topk": {"type": "topk", "k": 4},
            "relu": {"type": "vanilla"},
            "batchtopk": {"type": "batchtopk", "k": 4, "threshold_rate": 0.1},
            "matryoshka": {"type": "matryoshka", "k": 4, "threshold_rate": 0.1, "groups": [0.2, 0.3, 0.5]},
            "groupmax": {"type": "groupmax"},
            "jumprelu": {
                "type": "jumprelu",
                "threshold": 0.2,
                "bandwidth": 0.3,
                "penalty": "l0",
                "slope": 4.0,
                "price": 1.0,
            },
            "gated": {"type": "gated", "price": 1.0},
        }
        d_model, dictionaries = lm.paths.d_model, {}
        for number, site in enumerate(_all_sites(lm) if sites is None else sites):
            shape = Shape(n_features + number, d_model, d_model, site.transcoder, further(site, sites or ()))
            own = dict(settings[activation])
            if activation == "groupmax":
                own["k"] = next(k for k in range(2, shape.n_features + 1) if shape.n_features % k == 0)
            dictionaries[site] = create(shape, **own)
        suite = Suite(dictionaries, lm, ends=ends, auxk=auxk).double()
        generator = torch.Generator().manual_seed(seed)
        for parameter in suite.parameters():
            noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            parameter.data = 0.4 * noise
        for number, site in enumerate(suite.sites):
            dictionary = suite[site]
            for shift, unit in enumerate((dictionary.reads, dictionary.writes)):
                shift = shift if dictionary.transcoder else 0  # an autoencoder reads and writes in one unit
                generator.manual_seed(1000 + 2 * number + shift)
                unit.centre.copy_(0.2 * torch.randn(unit.centre.shape, dtype=torch.float64, generator=generator))
                unit.scale.fill_(0.6 + 0.15 * (number % 4) + 0.2 * shift)
            dictionary.ceiling[::2] = 1 + torch.rand(dictionary.ceiling[::2].shape, generator=generator).double()
        return suite

    return make


@pytest.fixture(scope="session")
def ragged() -> Callable[..., Any]:
    """`ragged(layout, density=0.35, seed=0)`: random connections; of every site, feature 0 has none, feature 1 all."""

    def make(layout: Any, density: float = 0.35, seed: int = 0) -> Any:
        import torch

        from scae.connections import Connections, Inputs

        generator = torch.Generator().manual_seed(seed)
        inputs = {}
        for site in layout.sites:
            kept = torch.rand(layout.size(site), layout.n_upstream(site), generator=generator) < density
            kept[0], kept[1] = False, True
            inputs[site] = Inputs.from_pairs(*kept.nonzero(as_tuple=True), layout.size(site))
        return Connections(layout, inputs)

    return make


def neutral_training(**values: Any) -> Any:
    """A training of which only these keys are not neutral; for scripts, which load this file."""
    from scae.config import AdamOptimizer, Training

    neutral: dict[str, Any] = {
        "lr_width": None,
        "lr_features": None,
        "lr_sites": None,
        "warmup": 0.0,
        "decay": 0.0,
        "decay_shape": "linear",
        "decay_to": 0.0,
        "stagger": None,
        "optimizer": AdamOptimizer(kind="adam", lr_factor=1.0, beta1=0.9, beta2=0.999, eps=1e-8),
        "unit_norm": True,
    }
    return Training(**(neutral | values))
