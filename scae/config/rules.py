"""The rules that cross groups. Those between the keys of one group are the `problems` of its section."""

import os
from collections.abc import Iterator
from pathlib import Path

from scae.config.activations import LiveActivations
from scae.config.errors import null, shortened
from scae.config.model import BITSANDBYTES, TinyModel, has_bitsandbytes
from scae.config.pruning import chosen_stages, pruning_problems
from scae.config.section import Section
from scae.config.sites import TRANSCODERS
from scae.config.whole import Config

BYTES_A_WEIGHT = 2 * 4 * 4  # encoder and decoder; float32; weight, gradient and Adam's two moments


def problems_of(config: Config) -> Iterator[str]:
    """All that is wrong with values that are each allowed by themselves, on this machine."""
    for key, section in config:
        if isinstance(section, Section):
            yield from section.problems(key)
    if isinstance(config.model, TinyModel):  # other models say what they are when they are opened
        yield from shape_problems(config, d_model=config.model.d_model, n_layers=config.model.n_layers)
    yield from _quantize_problems(config)
    yield from _batch_problems(config)
    yield from _store_problems(config)
    yield from config.pretrain.validation.of_loss("pretrain.validation", config.pretrain.loss)
    yield from config.finetune.validation.of_loss("finetune.validation", config.loss)
    yield from _stage_problems(config)
    yield from _skip_problems(config)
    yield from _without_target(config)
    yield from _missing_files(config)
    yield from _unwritable(config)


def shape_problems(config: Config, *, d_model: int, n_layers: int) -> Iterator[str]:
    """What a model of this shape has no room for."""
    sae = config.sae
    if sae.features is None:
        name = (
            f"the {sae.size(d_model)} features of sae.expansion={null(sae.expansion)} x {d_model}, the model's d_model"
        )
        yield from sae.size_problems("sae", sae.size(d_model), name=name, change="sae.expansion")
    for key, layers in _layer_lists(config):
        if any(layer >= n_layers for layer in layers):
            yield f"{key}={layers}: the model has {n_layers} layers; allowed: 0 to {n_layers - 1}"
    for key, training in (("pretrain", config.pretrain), ("finetune", config.finetune)):
        yield from training.site_problems(key, config.sites, n_layers)
    yield from _memory_problems(config, d_model, n_layers)


def _layer_lists(config: Config) -> Iterator[tuple[str, list[int]]]:
    for key, layers in (
        ("sites.layers", config.sites.layers),
        ("loss.block_mse.layers", config.loss.block_mse.layers),
        ("pretrain.loss.block_mse.layers", config.pretrain.loss.block_mse.layers),
    ):
        if layers != "all":
            yield key, layers


def _memory_problems(config: Config, d_model: int, n_layers: int) -> Iterator[str]:
    """A suite that this machine cannot hold while it trains, whatever else needs memory."""
    sae = config.sae
    key, found = ("sae.features", sae.features) if sae.features is not None else ("sae.expansion", sae.expansion or 0)
    n_sites = config.sites.count(n_layers)
    needed = n_sites * sae.size(d_model) * d_model * BYTES_A_WEIGHT
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        yield (
            f"{key}={found}: with model.d_model={d_model} and model.n_layers={n_layers}, {n_sites} dictionaries of "
            f"{sae.size(d_model):,} features take {needed / 1e9:,.0f} GB to train, this machine has "
            f"{memory / 1e9:,.0f} GB; allowed: at most {memory * found // needed}"
        )


def _quantize_problems(config: Config) -> Iterator[str]:
    quantize = None if isinstance(config.model, TinyModel) else config.model.quantize
    if quantize is None:
        return
    if config.trainer.accelerator == "cpu":
        yield f"model.quantize={quantize}: quantised models run on a GPU, and trainer.accelerator=cpu; allowed: null"
    if not has_bitsandbytes():
        yield f"model.quantize={quantize}: {BITSANDBYTES}"


def _batch_problems(config: Config) -> Iterator[str]:
    trainer = config.trainer
    for key, training in (("pretrain", config.pretrain), ("finetune", config.finetune)):
        if trainer.devices != "auto" and training.batch_size % (trainer.devices * trainer.num_nodes):
            yield (
                f"{key}.batch_size={training.batch_size}: must be a multiple of the number of processes "
                f"(trainer.devices={trainer.devices} x trainer.num_nodes={trainer.num_nodes})"
            )


def _store_problems(config: Config) -> Iterator[str]:
    if isinstance(config.activations, LiveActivations):
        return
    if config.pretrain.validation.every is not None:
        yield (
            f"activations={config.activations.kind}: a store holds what pretrain.validation.every="
            f"{config.pretrain.validation.every} would keep aside; allowed: pretrain.validation.every=null, or "
            "activations=live"
        )
    if config.sites.hook is not None:
        yield (
            f"activations={config.activations.kind}: a store has columns as wide as the stream, and sites.hook="
            f"{config.sites.hook} may be of another width; allowed: activations=live"
        )
    for term in config.pretrain.loss.across_sites:
        yield (
            f"activations={config.activations.kind}: a store keeps what each site reads and writes, and "
            f"pretrain.loss.{term}.weight={getattr(config.pretrain.loss, term).weight} needs the live model's stream "
            f"between them; allowed: pretrain.loss.{term}.weight=0, or activations=live"
        )


def _stage_problems(config: Config) -> Iterator[str]:
    yield from pruning_problems(config)
    for stage in config.force:
        if stage not in chosen_stages(config):
            yield f"force={config.force}: {stage} is not among stages={config.stages}"


def _skip_problems(config: Config) -> Iterator[str]:
    if config.sae.skip and not set(TRANSCODERS) & set(config.sites.kinds):
        yield (
            f"sae.skip=true: a skip belongs to a transcoder; sites.kinds={config.sites.kinds} has none, allowed: kinds "
            f"with {' or '.join(TRANSCODERS)}"
        )


def _without_target(config: Config) -> Iterator[str]:
    """A search needs to see what one dictionary should write."""
    kinds = config.sites.kinds
    if config.sae.encoder == "pursuit" and (others := [kind for kind in kinds if kind in TRANSCODERS]):
        yield (
            f"sites.kinds={kinds}: sae.encoder=pursuit searches for what a dictionary should write, which a transcoder "
            f"({', '.join(others)}) does not see; allowed: autoencoders alone, such as [attn,mlp_out]"
        )
    if config.evaluation.pursuit is not None and (config.sae.skip or config.sae.normalise == "token"):
        yield (
            f"evaluation.pursuit={config.evaluation.pursuit}: it searches in one unit, for what features alone write; "
            f"found sae.skip={str(config.sae.skip).lower()}, sae.normalise={config.sae.normalise}; allowed: null"
        )
    if config.evaluation.pursuit is not None and "clt" in kinds:
        yield (
            f"evaluation.pursuit={config.evaluation.pursuit}: it searches for one dictionary at a time, and with clt "
            f"among sites.kinds={kinds} several write at one MLP; allowed: null"
        )


def _missing_files(config: Config) -> Iterator[str]:
    for key, path in (("connectivity.path", config.connectivity.path), ("ckpt_path", config.ckpt_path)):
        if path is not None and not os.path.isfile(path):  # also where no file can have that name
            yield f"{key}={shortened(path)}: no such file"
    begin = config.pretrain.init_from
    if begin is not None and not os.path.exists(os.path.expanduser(begin)):
        yield f"pretrain.init_from={shortened(begin)}: no such file or folder"


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
