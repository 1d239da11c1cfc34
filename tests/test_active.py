"""What is active names an artifact, and nothing else does: a term that is off, a setting that the chosen kind does not
read, a key at its neutral value."""

import copy
import functools
import json
from collections.abc import Iterator
from typing import Annotated, Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError
from test_plan import STAGES, Of, changed, downstream_of, names, of
from test_surprises import branches

from scae.config import Config, unprunable
from scae.config.active import SWITCH, Neutral, ReadIf, Switch, Unnamed, active, declared
from scae.config.loss import WANTS
from scae.config.section import Positive, Section, Weight
from scae.experiment.plan import Plan

_ = of  # a fixture of every test here, too
COVERED = {
    "model": "model",
    "data": "model",
    "sites": "pretrain",
    "sae": "pretrain",
    "pretrain": "pretrain",
    "trainer": "pretrain",
    "connectivity": "select",
    "finetune": "finetune",
    "loss": "finetune",
    "evaluation": "evaluate",
    "analysis": "analyze",
}
"""The first stage that a section names."""


@pytest.mark.parametrize(
    ("override", "off", "on"),
    [
        ("loss.block_mse.layers=[0]", "loss.block_mse.weight=0", "loss.block_mse.weight=0.1"),
        ("loss.logit_kl.temperature=2", "loss.logit_kl.weight=0", "loss.logit_kl.weight=1"),
        ("loss.recon.knee=2", "loss.recon.kind=mse", "loss.recon.kind=huber"),
        ("loss.recon.kind=mse", "loss.recon.weight=0", "loss.recon.weight=1"),
        ("pretrain.loss.block_mse.layers=[0]", "pretrain.loss.block_mse.weight=0", "pretrain.loss.block_mse.weight=1"),
        ("sae.anneal.k_start=30", "sae.anneal.share=null", "sae.anneal.share=0.5"),
        ("sae.bound.tokens=3", "sae.bound.margin=null", "sae.bound.margin=1"),
        ("finetune.regrow.share=0.5", "finetune.regrow.every=null", "finetune.regrow.every=5"),
        ("finetune.refit.steps=3", "finetune.refit.tokens=null", "finetune.refit.tokens=64"),
        ("finetune.revive.until=0.5", "finetune.revive.every=null", "finetune.revive.every=5"),
        ("pretrain.validation.tokens=99", "pretrain.validation.every=null", "pretrain.validation.every=5"),
        ("finetune.validation.metric=fvu_max", "finetune.validation.every=null", "finetune.validation.every=5"),
        ("finetune.validation.min_delta=2", "finetune.validation.every=null", "finetune.validation.every=5"),
        ("connectivity.spread=2", "connectivity.budget=even", "connectivity.budget=by_score"),
        ("connectivity.spread=2", "connectivity.scope=per_site", "connectivity.scope=joint"),
        ("connectivity.budget=even", "connectivity.scope=per_site", "connectivity.scope=joint"),
        ("connectivity.spread=2", "connectivity=random", "connectivity=contribution"),
        ("connectivity.tokens=3", "connectivity=random", "connectivity=contribution"),
        ("connectivity.weighting=all", "connectivity=none", "connectivity=contribution"),
        ("connectivity.C=3", "connectivity=none", "connectivity=random"),
        ("connectivity.C=3", "connectivity=all", "connectivity=contribution"),
        ("connectivity.scope=per_site", "connectivity=all", "connectivity=random"),
        ("evaluation.pursuit_steps=3", "evaluation.pursuit=null", "evaluation.pursuit=matching"),
    ],
)
def test_a_setting_names_only_where_it_is_read(of: Of, override: str, off: str, on: str) -> None:
    assert changed(of, override, base=(off,)) == set()
    assert changed(of, override, base=(on,)) == downstream_of(COVERED[override.partition(".")[0]])
    assert changed(of, on, base=(off,)) == downstream_of(COVERED[off.partition(".")[0].partition("=")[0]])


@pytest.mark.parametrize("key", ["sae.auxk.k=3", "sae.auxk.dead_after=3"])
def test_when_features_are_dead_is_in_the_name_of_the_losses_that_ask(of: Of, key: str) -> None:
    off = ("pretrain.loss.auxk.weight=0", "loss.auxk.weight=0")
    assert changed(of, key, base=off) == set()
    assert changed(of, key, base=(off[0], "loss.auxk.weight=1")) == downstream_of("finetune")
    assert changed(of, key, base=("pretrain.loss.auxk.weight=1", off[1])) == downstream_of("pretrain")


@pytest.mark.parametrize(("override", "first"), [("pretrain.loss", "pretrain"), ("loss", "finetune")])
def test_sparsity_weighs_what_vanilla_alone_has_to_pay_for(of: Of, override: str, first: str) -> None:
    weights = [f"{override}.sparsity.weight={weight}" for weight in (0, 0.3)]
    for weight in weights:
        assert changed(of, weight, base=("sae=vanilla",)) == downstream_of(first)
        for picks in ("topk", "batchtopk"):
            assert changed(of, weight, base=(f"sae={picks}",)) == set()
    assert changed(of, weights[1], base=("sae=vanilla", weights[0])) == downstream_of(first)


@pytest.mark.parametrize(("override", "first"), [("pretrain.loss", "pretrain"), ("loss", "finetune")])
def test_partial_weighs_what_gated_and_matryoshka_alone_have(of: Of, override: str, first: str) -> None:
    for weight in (0, 0.3):
        key = f"{override}.partial.weight={weight}"
        for partial in ("gated", "matryoshka"):
            assert changed(of, key, base=(f"sae={partial}",)) == downstream_of(first)
        for others in ("topk", "vanilla", "jumprelu"):
            assert changed(of, key, base=(f"sae={others}",)) == set()


def test_keys_of_a_dictionary_that_are_off_name_nothing(of: Of) -> None:
    sae = of().sae
    assert {"skip", "anneal"}.isdisjoint(active(sae))
    assert active(sae.model_copy(update={"skip": True})) == active(sae) | {"skip": True}


@pytest.mark.parametrize(
    ("override", "on"),
    [
        ("sae.mlp.width=3", "sae.encoder=mlp"),
        ("sae.mlp.depth=2", "sae.encoder=mlp"),
        ("sae.mlp.skip=false", "sae.encoder=mlp"),
        ("sae.pursuit.method=matching", "sae.encoder=pursuit"),
        ("sae.pursuit.steps=3", "sae.encoder=pursuit"),
    ],
)
def test_the_settings_of_an_encoder_name_where_it_is_chosen(of: Of, override: str, on: str) -> None:
    """Encoders that nothing can be pruned with: the stages that are asked for are in no name."""
    without = ("sites.kinds=[attn]",)
    assert changed(of, override, base=without) == set()
    assert changed(of, override, base=(*without, on)) == downstream_of("pretrain")
    assert changed(of, on, base=without) == downstream_of("pretrain")


def test_sites_without_ends_are_named_as_if_there_were_no_ends(of: Of) -> None:
    sites = of().sites
    assert active(sites) == {"layers": "all", "kinds": ["attn", "mlp"]}
    assert active(sites.model_copy(update={"embed": True})) == active(sites) | {"embed": True}
    assert active(sites.model_copy(update={"unembed": True})) == active(sites) | {"unembed": True}


class Before(Section):
    steps: Positive


class Extra(Section):
    weight: Annotated[Weight, SWITCH]
    k: Positive


class After(Before):
    """The same section after two keys were added."""

    smoothing: Annotated[Weight, Neutral(0.0)]
    extra: Extra


def test_a_key_added_at_its_neutral_value_renames_nothing() -> None:
    off = Extra(weight=0.0, k=3)
    assert active(After(steps=2, smoothing=0.0, extra=off)) == active(Before(steps=2)) == {"steps": 2}
    assert active(After(steps=2, smoothing=0.1, extra=off)) == {"steps": 2, "smoothing": 0.1}
    assert active(After(steps=2, smoothing=0.0, extra=Extra(weight=1.0, k=3))) == {
        "steps": 2,
        "extra": {"weight": 1.0, "k": 3},
    }


# The declarations themselves.


def sections(schema: type[BaseModel]) -> Iterator[type[Section]]:
    for field in schema.model_fields.values():
        for one in branches(field.annotation):
            if isinstance(one, type) and issubclass(one, Section):
                yield one
                yield from sections(one)


SECTIONS = tuple(dict.fromkeys(sections(Config)))


def accepts(schema: type[Section], key: str, value: Any) -> bool:
    try:
        TypeAdapter(schema.model_fields[key].rebuild_annotation()).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("schema", SECTIONS, ids=lambda schema: schema.__name__)
def test_declarations_fit_their_section(schema: type[Section]) -> None:
    for key, field in schema.model_fields.items():
        for condition in declared(schema, key, ReadIf):
            for other, values in condition.needed.items():
                assert other != key
                assert all(accepts(schema, other, value) for value in values)
        for neutral in declared(schema, key, Neutral):
            assert accepts(schema, key, neutral.value)
        if declared(schema, key, Switch):  # a section that is on always has its switch in the name
            assert not declared(schema, key, Neutral)
            assert not declared(schema, key, Unnamed)
            assert not declared(schema, key, ReadIf)
        inner = [part for branch in get_args(field.annotation) for part in getattr(branch, "__metadata__", ())]
        assert not [part for part in inner if isinstance(part, ReadIf | Neutral | Switch | Unnamed)], "is not seen"
    assert sum(bool(declared(schema, key, Switch)) for key in schema.model_fields) <= 1


def test_what_is_in_no_name() -> None:
    """Whoever adds a key here says that no result depends on it, or where else a name has it."""
    found = {f"{schema.__name__}.{key}" for schema in SECTIONS for key in schema.model_fields
             if declared(schema, key, Unnamed)}  # fmt: skip
    assert found == {
        *("LocalModel.path", "TextData.path", "Connectivity.path", "Pretrain.init_from"),  # known by their content
        # the losses that read it have it in their names
        *(
            f"{kind}Sae.auxk"
            for kind in ("Vanilla", "TopK", "BatchTopK", "Matryoshka", "GroupMax", "JumpReLU", "Gated")
        ),
        *("Connectivity.chunk_mb", "Evaluation.first_look"),
        "Analysis.tokens",  # a name has the number that it stands for
        *(f"TrainerConfig.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "chunk_mb")),
        *(f"TrainerConfig.{key}" for key in ("checkpoint_minutes", "worst_share_warning", "progress")),
        *(f"TrainerConfig.{key}" for key in ("checkpoint_steps", "keep_checkpoints")),
    }


# Any two configurations that differ in one key.

ANYTHING = (
    None,
    True,
    False,
    1,
    2,
    3,
    300,
    0.0,
    0.25,
    0.5,
    1.0,
    2.0,
    "all",
    [0],
    [1],
    [0, 1],
    ["mlp"],
    ["attn"],
    [0.5, 0.5],
)
WORDS = (
    *("contribution", "random", "none", "all", "joint", "per_site", "firing", "activation", "even", "by_score"),
    *("linear", "cosine", "constant"),
    *("fvu", "mse", "huber", "float32", "bfloat16", "packed", "document", "auto", "bos", "eos"),
    *("8bit", "4bit", "last", "best", "dataset", "token", "l0", "tanh"),
    *("cpu", "cuda", "ddp", "32-true", "bf16-mixed"),
    *("linear", "mlp", "pursuit", "relu", "gelu", "gradient", "matching", "topk_pgd", ["decoder"]),
)


DISCRIMINATORS = tuple(
    f"{section}.kind" for section in ("model", "sae", "data", "pretrain.optimizer", "finetune.optimizer")
)
"""With them, other keys come and go."""


def leaves(values: dict[str, Any], parent: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{parent}{name}.")
        else:
            yield f"{parent}{name}"


def changed_in(plain: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    plain = copy.deepcopy(plain)
    *parents, name = key.split(".")
    functools.reduce(dict.__getitem__, parents, plain)[name] = value
    return plain


def checked(plain: dict[str, Any]) -> Config | None:
    try:
        return Config.model_validate(plain)
    except ValidationError:
        return None


@functools.cache
def choices(kind: str, of: Of) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """A configuration as plain values, and what each key that names something may be."""
    plain = of(f"sae={kind}").model_dump()
    found: dict[str, list[Any]] = {}
    for key in leaves({section: plain[section] for section in COVERED}):
        if key not in ("data.path", "pretrain.init_from", *DISCRIMINATORS):
            tried = (checked(changed_in(plain, key, value)) for value in (*ANYTHING, *WORDS))
            taken = [functools.reduce(getattr, key.split("."), config) for config in tried if config is not None]
            distinct = {json.dumps(value): value for value in taken if value != "auto" or key != "data.separator"}
            found[key] = list(distinct.values())
    return plain, found


def named_first(config: Config, key: str) -> str | None:
    """The first stage whose name has what a key says; None where nothing reads it."""
    if key.startswith("sae.auxk."):
        losses = {"pretrain": config.pretrain.loss, "finetune": config.loss}
        return next((stage for stage, loss in losses.items() if loss.auxk.weight), None)
    term = key.removeprefix("pretrain.").removeprefix("loss.").partition(".")[0] if "loss." in key else ""
    if WANTS.get(term) not in {None, *config.sae.offers}:
        return None
    section, *path = key.split(".")
    at: Any = active(getattr(config, section))
    for part in path:
        if part not in at:
            return None
        at = at[part]
    return COVERED[section]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_two_configurations_that_differ_in_an_active_key_differ_in_name(of: Of, data: st.DataObject) -> None:
    plain, values = choices(
        data.draw(st.sampled_from(["topk", "vanilla", "batchtopk", "matryoshka", "jumprelu", "gated"])), of
    )
    for key in data.draw(st.lists(st.sampled_from(sorted(values)), max_size=8)):
        plain = changed_in(plain, key, data.draw(st.sampled_from(values[key])))
    key = data.draw(st.sampled_from(sorted(key for key in values if len(values[key]) > 1)))
    one, other = (
        Config.model_validate(changed_in(plain, key, value))
        for value in data.draw(st.permutations(values[key]).map(lambda drawn: drawn[:2]))
    )
    before, after = names(one), names(other)
    pruned = not any(unprunable(one)) and not any(unprunable(other))
    seen = set(STAGES if pruned else ("model", "pretrain"))  # what is not pruned is evaluated as pretraining left it
    differ = {stage for stage in seen if before[stage] != after[stage]}
    moves = one.connectivity.method == other.connectivity.method == "contribution"  # others do not regrow
    first = named_first(one, key) or named_first(other, key)
    named = downstream_of(first) if first is not None and (moves or not key.startswith("finetune.regrow.")) else set()
    named |= {"analyze"} if Plan(one).analyzed != Plan(other).analyzed else set()
    assert differ == named & seen
