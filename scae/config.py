"""What a configuration may say: the type, the range and the meaning of every key, and the rules that cross groups.

Values live in `conf/` and nowhere else; this file has none. It imports neither torch nor a model, so that a bad
configuration is refused within a second of the command.
"""

import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from scae.config_errors import ConfigError as ConfigError  # the name other modules raise is scae.config.ConfigError
from scae.config_errors import cannot_run, explain, shortened


def _listed(value: Any) -> Any:
    """One name may stand without brackets."""
    return [value] if isinstance(value, str) else value


def _distinct(items: list[Any]) -> list[Any]:
    twice = sorted({str(item) for item in items if items.count(item) > 1})
    if twice:
        raise ValueError(f"every item once ({', '.join(twice)} is there more than once)")
    return items


Stage = Literal["model", "pretrain", "select", "finetune", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Count = Annotated[int, Field(ge=0, le=10**12)]  # far from what 64 bits hold, also times a batch or a megabyte
Positive = Annotated[int, Field(ge=1, le=10**12)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Separator = Literal["none", "bos", "eos"]
Layers = Literal["all"] | Annotated[list[Count], Field(min_length=1), AfterValidator(_distinct)]
BYTES_A_WEIGHT = 2 * 4 * 4  # encoder and decoder; float32; weight, gradient and Adam's two moments


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TinyModel(Section):
    """A Llama-style transformer trained here, on the training split of the data."""

    kind: Literal["tiny"]
    d_model: Positive
    n_layers: Positive
    n_heads: Positive
    d_mlp: Positive
    vocab_size: Annotated[int, Field(ge=260)] = Field(description="byte-level BPE: 256 bytes, 3 specials, merges")
    steps: Positive
    batch_size: Positive
    lr: Rate
    dtype: Literal["float32", "bfloat16"]


class LocalModel(Section):
    """Any Hugging Face causal language model directory."""

    kind: Literal["local"]
    path: Text = Field(examples=["models/pythia-70m"], description="a folder with config.json and tokenizer.json")
    dtype: Literal["float32", "bfloat16"]


class HubModel(Section):
    """A model by its Hugging Face name."""

    kind: Literal["hub"]
    name: Text = Field(examples=["EleutherAI/pythia-70m-deduped"])
    revision: str | None
    dtype: Literal["float32", "bfloat16"]


class Windows(Section):
    """How text becomes windows of tokens."""

    context: Annotated[int, Field(ge=4)] = Field(description="tokens a window, the prepended BOS included")
    packing: Literal["packed", "document"]
    prepend_bos: Literal["auto"] | bool
    separator: Literal["auto", "none", "bos", "eos"] = Field(
        description="the token between packed documents; auto: what the model predicts text best with"
    )
    attend_across: bool = Field(description="whether attention may cross the border of two packed documents")
    heldout: Fraction = Field(description="share of the documents that only evaluation sees")
    max_tokens: Positive | None = Field(description="stop after this many tokens; null: all")

    @property
    def settled_separator(self) -> Separator:
        """What stands between packed documents; raises ValueError where that is still to be measured."""
        if self.separator == "auto":
            raise ValueError(
                "data.separator=auto is settled before text is cut in windows: see scae.experiment.separator"
            )
        return self.separator


class StdlibData(Windows):
    kind: Literal["stdlib"]


class TextData(Windows):
    kind: Literal["text"]
    path: Text | list[Text] = Field(examples=["texts"], description="files, folders, globs of .txt, .jsonl, .parquet")
    field: str = Field(description="the column of .jsonl and .parquet that holds the text")


class HubData(Windows):
    kind: Literal["hub"]
    name: Text = Field(examples=["NeelNanda/pile-10k"])
    config: str | None
    split: str
    field: str


class Sites(Section):
    """Where the model gets a dictionary."""

    layers: Layers
    kinds: Annotated[list[Literal["attn", "mlp"]], Field(min_length=1), AfterValidator(_distinct)]


class AuxK(Section):
    weight: Weight
    k: Positive = Field(description="dead features that reconstruct the error of a token")
    dead_after: Positive = Field(description="tokens without firing after which a feature counts as dead")


class Bound(Section):
    """No activation exceeds `margin` times the largest that its feature has in the plain pass."""

    margin: Annotated[float, Field(ge=1)] | None = Field(description="null: activations are not bounded")
    tokens: Positive = Field(description="training tokens on which the largest activations are found")


class Sae(Section):
    """What every type of dictionary has; all sites share these settings."""

    features: Positive | None = Field(description="absolute size; null: expansion x d_model")
    expansion: Positive | None
    centred: bool = Field(description="whether the unit of a site subtracts its mean, as it divides by its size")
    bound: Bound
    auxk: AuxK

    def size(self, d_model: int) -> int:
        return self.features if self.features is not None else (self.expansion or 0) * d_model


class VanillaSae(Sae):
    """ReLU: whatever is positive is active."""

    kind: Literal["vanilla"]
    l1: Weight = Field(description="weight of the L1 norm of the activations, a token")


class TopKSae(Sae):
    kind: Literal["topk"]
    k: Positive = Field(description="features a token")


class BatchTopKSae(Sae):
    kind: Literal["batchtopk"]
    k: Positive = Field(description="features a token, on average over a batch")
    threshold_rate: Fraction = Field(description="step of the running mean that learns the inference threshold")


AnySae = Annotated[VanillaSae | TopKSae | BatchTopKSae, Field(discriminator="kind")]


class Connectivity(Section):
    method: Literal["contribution", "random", "all", "none", "file"]
    C: Count = Field(description="connections a feature may read from")
    scope: Literal["joint", "per_site"] = Field(description="C over all upstream sites together, or for each of them")
    weighting: Literal["all", "firing", "activation"] = Field(description="tokens the mean contribution is taken over")
    tokens: Positive = Field(description="training tokens that the contributions are measured on")
    chunk_mb: Positive = Field(description="bound on the score matrix held at a time")
    budget: Literal["even", "by_score"] = Field(
        description="C for every feature, or as many in all where they matter most; scope=per_site is always even"
    )
    spread: Positive = Field(description="budget=by_score: a feature gets between C / spread and C x spread")
    path: str | None = Field(description="method=file: a connections .safetensors")


class Recon(Section):
    weight: Weight
    kind: Literal["fvu", "mse", "huber"]
    knee: Rate = Field(description="kind=huber: the error, in units of its site, beyond which the loss is linear")


class BlockMse(Section):
    weight: Weight
    layers: Layers = Field(description="layers after which the residual streams are compared")


class LogitKl(Section):
    weight: Weight
    temperature: Annotated[float, Field(gt=0, le=10**6)]


class CrossEntropy(Section):
    weight: Weight


class Loss(Section):
    recon: Recon
    block_mse: BlockMse
    logit_kl: LogitKl
    ce: CrossEntropy


class Training(Section):
    """One training stage of the suite."""

    steps: Positive
    batch_size: Positive = Field(description="windows an optimiser micro-step, over all devices")
    lr: Rate
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(description="share of the steps with a rising rate")
    decay: Annotated[float, Field(ge=0, le=1)] = Field(
        description="share of the steps, at the end, with a falling rate"
    )
    unit_norm: bool = Field(description="keep decoder rows at norm 1, projecting their gradients")


class Pretrain(Training):
    loss: Loss


class Regrow(Section):
    """Connections that move during finetuning, where they were chosen by contribution; any others stay."""

    every: Positive | None = Field(description="steps between two rounds; null: the connections stay")
    share: Fraction = Field(description="of a feature's connections, those that the first round may move at most")
    until: Annotated[float, Field(gt=0, le=1)] = Field(description="share of the steps over which `share` falls to 0")
    batches: Positive = Field(description="micro-steps, the latest, that a round measures on")


class Finetune(Training):
    regrow: Regrow


class Evaluation(Section):
    tokens: Positive = Field(description="held-out tokens, at least one window")
    batch_size: Positive
    twins: bool = Field(description="also finetune random, none, dense and plain twins: what a claim needs")


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


class Logger(Section):
    kind: Literal["csv", "tensorboard", "wandb"]
    every: Positive = Field(description="steps between two lines")
    project: str | None
    mode: Literal["offline", "online"] | None


class Paths(Section):
    artifacts: Text
    output: Text


class Config(Section):
    model: Annotated[TinyModel | LocalModel | HubModel, Field(discriminator="kind")]
    data: Annotated[StdlibData | TextData | HubData, Field(discriminator="kind")]
    sites: Sites
    l0: Positive = Field(
        description="active features a token that a dictionary aims at: sae.k where nothing else is set"
    )
    sae: AnySae
    connectivity: Connectivity
    pretrain: Pretrain
    finetune: Finetune
    loss: Loss
    evaluation: Evaluation
    trainer: TrainerConfig
    logger: Logger
    paths: Paths
    stages: Annotated[list[Stage], BeforeValidator(_listed), Field(min_length=1), AfterValidator(_distinct)]
    force: Annotated[list[Stage], BeforeValidator(_listed), AfterValidator(_distinct)] = Field(
        description="stages to compute again, with everything made from them"
    )
    ckpt_path: str | None = Field(description="a checkpoint whose stage is resumed")
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    optimized_metric: str


def parse(values: Mapping[str, Any]) -> Config:
    """Check a resolved configuration and give it types; raises ConfigError naming key, value and what is allowed."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise cannot_run(explain(error, values, Config)) from None
    problems = [
        *_dictionary_problems(config),
        *_model_problems(config),
        *_training_problems(config),
        *_choice_problems(config),
        *_missing_files(config),
        *_unwritable(config),
    ]
    if problems:
        raise cannot_run(problems)
    return config.model_copy(update={"data": _settled(config)})


def _settled(config: Config) -> StdlibData | TextData | HubData:
    """The data section without choices that need no measurement, so that one thing has one name.

    A padded window holds one document. The embedded model never saw a text: what it is trained on is what it knows.
    """
    if config.data.packing == "document":
        return config.data.model_copy(update={"separator": "none", "attend_across": True})
    if config.data.separator == "auto" and isinstance(config.model, TinyModel):
        return config.data.model_copy(update={"separator": "eos"})
    return config.data


# The rules that no single key can check.


def _dictionary_problems(config: Config) -> Iterator[str]:
    sae = config.sae
    if (sae.features is None) == (sae.expansion is None):
        both = f"sae.features={_null(sae.features)} and sae.expansion={_null(sae.expansion)}"
        yield f"{both}: set exactly one of them, the other to null"
    if not isinstance(sae, VanillaSae) and sae.features is not None and sae.k > sae.features:
        yield f"sae.k={sae.k}: more than sae.features={sae.features}; lower sae.k or raise sae.features"


def _model_problems(config: Config) -> Iterator[str]:
    """Other models say what they are when they are opened; the tiny one can be checked here."""
    model = config.model
    if not isinstance(model, TinyModel):
        return
    if model.d_model % model.n_heads or (model.d_model // model.n_heads) % 2:
        yield (
            f"model.n_heads={model.n_heads}: must divide model.d_model={model.d_model} into heads of an even size "
            "(rotary positions turn pairs)"
        )
    yield from shape_problems(config, d_model=model.d_model, n_layers=model.n_layers)


def shape_problems(config: Config, *, d_model: int, n_layers: int) -> Iterator[str]:
    """What a model of this shape has no room for."""
    sae = config.sae
    if not isinstance(sae, VanillaSae) and sae.features is None and sae.k > sae.size(d_model):
        yield (
            f"sae.k={sae.k}: more than the {sae.size(d_model)} features of sae.expansion={_null(sae.expansion)} x "
            f"{d_model}, the model's d_model; lower sae.k or raise sae.expansion"
        )
    for key, layers in _layer_lists(config):
        if any(layer >= n_layers for layer in layers):
            yield f"{key}={layers}: the model has {n_layers} layers; allowed: 0 to {n_layers - 1}"
    yield from _memory_problems(config, d_model, n_layers)


def _memory_problems(config: Config, d_model: int, n_layers: int) -> Iterator[str]:
    """A suite that this machine cannot hold while it trains, whatever else needs memory."""
    sae, layers = config.sae, config.sites.layers
    key, found = ("sae.features", sae.features) if sae.features is not None else ("sae.expansion", sae.expansion or 0)
    n_sites = len(config.sites.kinds) * (n_layers if layers == "all" else len(layers))
    needed = n_sites * sae.size(d_model) * d_model * BYTES_A_WEIGHT
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        yield (
            f"{key}={found}: with model.d_model={d_model} and model.n_layers={n_layers}, {n_sites} dictionaries of "
            f"{sae.size(d_model):,} features take {needed / 1e9:,.0f} GB to train, this machine has "
            f"{memory / 1e9:,.0f} GB; allowed: at most {memory * found // needed}"
        )


def _training_problems(config: Config) -> Iterator[str]:
    for key, loss in (("loss", config.loss), ("pretrain.loss", config.pretrain.loss)):
        if not any(getattr(loss, term).weight for term in Loss.model_fields):
            weights = ", ".join(f"{key}.{term}.weight" for term in Loss.model_fields)
            yield f"{key}: every weight is 0; needed: more than 0 for at least one of {weights}"
    for key, training in (("pretrain", config.pretrain), ("finetune", config.finetune)):
        if training.warmup + training.decay > 1:
            yield f"{key}.warmup={training.warmup} and {key}.decay={training.decay}: together at most 1"
        devices = config.trainer.devices
        if devices != "auto" and training.batch_size % (devices * config.trainer.num_nodes):
            yield (
                f"{key}.batch_size={training.batch_size}: must be a multiple of the number of processes "
                f"(trainer.devices={devices} x trainer.num_nodes={config.trainer.num_nodes})"
            )


def _choice_problems(config: Config) -> Iterator[str]:
    """Settings that would be ignored, or lack their other half."""
    data, connectivity = config.data, config.connectivity
    if data.max_tokens is not None and data.max_tokens < data.context:
        yield f"data.max_tokens={data.max_tokens}: less than one window; needed: at least data.context={data.context}"
    if data.packing == "document" and data.separator not in ("auto", "none"):
        yield (
            f"data.separator={data.separator}: data.packing=document puts one document in a window, nothing between "
            "two; allowed: auto, none"
        )
    if (connectivity.method == "file") != (connectivity.path is not None):
        yield (
            f"connectivity.path={_null(connectivity.path)}: connectivity.method=file needs a connections .safetensors, "
            f"the other methods null; found connectivity.method={connectivity.method}"
        )
    if config.logger.kind == "wandb" and (config.logger.project is None or config.logger.mode is None):
        yield "logger.kind=wandb: needs logger.project and logger.mode; choose the group logger=wandb, which sets both"
    for stage in config.force:
        if stage not in config.stages:
            yield f"force={config.force}: {stage} is not among stages={config.stages}"


def _null(value: object) -> object:
    return "null" if value is None else value


def _layer_lists(config: Config) -> Iterator[tuple[str, list[int]]]:
    for key, layers in (
        ("sites.layers", config.sites.layers),
        ("loss.block_mse.layers", config.loss.block_mse.layers),
        ("pretrain.loss.block_mse.layers", config.pretrain.loss.block_mse.layers),
    ):
        if layers != "all":
            yield key, layers


def _missing_files(config: Config) -> Iterator[str]:
    if isinstance(config.model, LocalModel):
        folder = Path(config.model.path)
        for name in ("config.json", "tokenizer.json"):
            if not os.path.isfile(folder / name):
                yield f"model.path={config.model.path}: no {name} there; needed: a Hugging Face model directory"
                break
    if isinstance(config.data, TextData):
        try:
            text_files(config.data.path)
        except ConfigError as error:
            yield str(error)
    for key, path in (("connectivity.path", config.connectivity.path), ("ckpt_path", config.ckpt_path)):
        if path is not None and not os.path.isfile(path):  # also where no file can have that name
            yield f"{key}={shortened(path)}: no such file"


def _unwritable(config: Config) -> Iterator[str]:
    for key, path in (("paths.artifacts", config.paths.artifacts), ("paths.output", config.paths.output)):
        folder = Path(path).absolute()
        try:
            nearest = next(part for part in (folder, *folder.parents) if part.exists())
        except OSError as error:
            yield f"{key}={shortened(path)}: {error.strerror}; needed: a folder, or a place where one can be made"
            continue
        if not nearest.is_dir():
            yield f"{key}={path}: {nearest} is a file; needed: a folder, or a place where one can be made"
        elif not os.access(nearest, os.W_OK | os.X_OK):
            yield f"{key}={path}: nothing can be written into {nearest}; needed: a folder that can be written"


def text_files(path: str | list[str]) -> list[Path]:
    """The text files that `data.path` names, in a fixed order, each once, however many ways lead to it; raises
    ConfigError where there is nothing to read."""
    found: list[Path] = []
    for pattern in [path] if isinstance(path, str) else path:
        wanted = os.path.expanduser(pattern)
        matches = [wanted] if os.path.exists(wanted) else glob.glob(wanted, recursive=True)
        if not matches:
            raise ConfigError(f"data.path={shortened(pattern)}: no such file, folder or glob")
        for match in map(Path, matches):
            found += sorted(match.rglob("*")) if match.is_dir() else [match]
    readable = (file for file in found if file.suffix.lower() in (".txt", ".jsonl", ".parquet") and file.is_file())
    files = sorted({file.resolve() for file in readable})
    if not files:
        raise ConfigError(f"data.path={path}: no .txt, .jsonl or .parquet file there")
    for file in files:
        if not os.access(file, os.R_OK):
            raise ConfigError(f"data.path: {file} cannot be read: permission denied")
    if not any(file.stat().st_size for file in files):
        raise ConfigError(f"data.path={path}: an empty corpus, every one of its {len(files)} files has 0 bytes")
    return files
