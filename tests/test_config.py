"""Every mistake in a configuration is refused before anything heavy starts, and the message says how to repair it."""

import copy
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from scae.command import values
from scae.config import STAGES, ConfigError, parse
from scae.config.sites import TRANSCODERS

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(scope="module")
def composed() -> Any:
    """The values of a command line: `composed("sae.k=3", "loss=ce")`.

    Hydra takes a quarter of a second to compose, so a choice of groups is composed once and values are set in copies.
    """
    parser = OverridesParser.create()

    @functools.cache
    def chosen(groups: tuple[str, ...]) -> DictConfig:
        return compose("train", overrides=["paths.output=out", *groups])

    def of(*overrides: str) -> dict[str, Any]:
        parsed = parser.parse_overrides(list(overrides))
        groups = tuple(str(part.input_line) for part in parsed if (CONF / part.key_or_group).is_dir())
        config = copy.deepcopy(chosen(groups))
        for part in parsed:
            if part.input_line in groups:
                continue
            if part.is_delete():
                section, _, name = part.key_or_group.rpartition(".")
                with open_dict(config):
                    del OmegaConf.select(config, section)[name]
            else:
                OmegaConf.update(config, part.key_or_group, part.value(), force_add=part.is_add())
        return values(config)

    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield of


Composed = Callable[..., dict[str, Any]]


def refusal(composed: Composed, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(composed(*overrides))
    return str(caught.value)


def test_the_default_is_parsed_fast(composed: Composed) -> None:
    plain = composed()
    fastest = min(_seconds(lambda: parse(plain)) for _ in range(5))
    assert fastest < 0.05


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("+sae.kk=3", ["sae.kk: no such key", "did you mean `sae.k`?", "auxk"]),
        ("+seae.k=3", ["seae: no such key", "did you mean `sae`?"]),
        ("+loss.recon.wieght=1", ["did you mean `loss.recon.weight`?"]),
        ("+model.name=x", ["model.name: no such key", "d_model"]),
        ("~sae.k", ["sae.k: missing"]),
        ("sae.k=abc", ["sae.k='abc'", "an integer"]),
        ("sae.k=true", ["sae.k=true", "an integer"]),
        ("sae.k=2.5", ["sae.k=2.5", "an integer"]),
        ("sae.k=0", ["sae.k=0", "at least 1"]),
        ("sae.features=0", ["sae.features=0", "at least 1 or null"]),
        ("l0=0", ["l0=0", "at least 1"]),
        ("seed=4294967296", ["seed=4294967296", "less than 4294967296"]),
        ("pretrain.lr=true", ["pretrain.lr=true", "a number"]),
        ("pretrain.lr=nan", ["pretrain.lr=nan", "a finite number"]),
        ("pretrain.lr=0", ["pretrain.lr=0", "more than 0"]),
        ("evaluation.twins=yess", ["evaluation.twins='yess'", "true or false"]),
        ("connectivity.C=-1", ["connectivity.C=-1", "at least 0"]),
        ("data.heldout=1.5", ["data.heldout=1.5", "less than 1"]),
        ("sae.kind=topkk", ["sae.kind='topkk'", "'batchtopk'", "did you mean `topk`?"]),
        ("model.kind=tinny", ["model.kind='tinny'", "'tiny', 'local', 'hub'", "did you mean `tiny`?"]),
        ("pretrain.loss=recon_kl", ["pretrain.loss='recon_kl'", "block_mse", "GROUP@pretrain.loss=recon_kl"]),
        ("stages=[pretrian]", ["stages[0]='pretrian'", "did you mean `pretrain`?"]),
        ("force=[evaluat]", ["force[0]='evaluat'", "did you mean `evaluate`?"]),
        ("stages=[model,model]", ["stages=", "every item once (model"]),
        ("stages=[]", ["stages=[]", "at least 1"]),
        ("sites.kinds=[attn,mpl]", ["sites.kinds[1]='mpl'", "did you mean `mlp`?"]),
        ("sites.layers=al", ["sites.layers='al'", "'all' or a list", "did you mean `all`?"]),
        ("sites.layers=[0,a]", ["sites.layers[1]='a'", "an integer"]),
        ("sites.layers=[1,1]", ["every item once (1"]),
        ("sites.layers=[0,7]", ["sites.layers=[0, 7]", "the model has 4 layers", "0 to 3"]),
        ("trainer.devices=0", ["trainer.devices=0", "'auto' or at least 1"]),
        ("sae.k=5000", ["sae.k=5000", "512 features", "raise sae.expansion"]),
        ("sae.anneal={share: 0.5, k_start: 4}", ["sae.anneal.k_start=4: less than sae.k=16", "anneal.share=null"]),
        (
            "sae.anneal={share: 0.5, k_start: 999}",
            ["sae.anneal.k_start=999: more than the 512 features", "raise sae.exp"],
        ),
        ("sae.anneal.share=1", ["sae.anneal.share=1", "less than 1.0 or null"]),
        ("sae.features=8", ["sae.features=8 and sae.expansion=8", "exactly one"]),
        ("sae.k=null", ["sae.k=null", "an integer"]),
        (
            "sae.kind=vanilla",
            ["sae.k: no such key", "allowed in sae: features, expansion, centred, normalise, bound"],
        ),
        ("sae.normalise=tokens", ["sae.normalise='tokens'", "'dataset', 'token' or 'none'", "did you mean `token`?"]),
        ("model.n_heads=3", ["model.n_heads=3", "model.d_model=64"]),
        ("pretrain.loss.recon.weight=0", ["pretrain.loss: every weight is 0", "logit_kl"]),
        ("finetune.warmup=0.9", ["finetune.warmup=0.9 and finetune.decay=0.7"]),
        ("trainer.devices=3", ["pretrain.batch_size=16", "trainer.devices=3", "finetune.batch_size=8"]),
        ("pretrain.validation.keep=best", ["pretrain.validation.keep=best", "pretrain.validation.every=STEPS"]),
        ("finetune.validation.patience=3", ["finetune.validation.patience=3", "finetune.validation.every=STEPS"]),
        ("pretrain.validation.keep=first", ["pretrain.validation.keep='first'", "'last' or 'best'"]),
        ("trainer.keep_checkpoints=some", ["trainer.keep_checkpoints='some'", "'all' or an integer"]),
        ("trainer.checkpoint_steps=0", ["trainer.checkpoint_steps=0", "at least 1 or null"]),
        ("model.warmup=0.6", ["model.warmup=0.6 and model.decay=0.5", "at most 1"]),
        (
            "pretrain.lr_sites={0.atn: 0.5}",
            ["pretrain.lr_sites={0.atn:0.5}: no site is called 0.atn", "did you mean `0.attn`?"],
        ),
        ("pretrain.lr_sites={9.mlp: 0.5}", ["no site is called 9.mlp; allowed: 0.attn, 0.mlp, 1.attn"]),
        ("finetune.lr_sites={0.attn: 0}", ["finetune.lr_sites.0.attn=0", "more than 0"]),
        (
            "pretrain.stagger=100",
            ["pretrain.stagger=100: the last of 8 sites", "step 700 of pretrain.steps=600", "most 85"],
        ),
        (
            "pretrain.decay_shape=constant",
            ["pretrain.decay_shape=constant and pretrain.decay_to=0.0", "pretrain.decay=0"],
        ),
        ("finetune.decay_shape=cosin", ["'linear', 'cosine' or 'constant'", "did you mean `cosine`?"]),
        (
            "pretrain.optimizer.kind=moun",
            ["pretrain.optimizer.kind='moun'", "'adam', 'muon', 'signum'", "did you mean `muon`?"],
        ),
        ("pretrain.optimizer.kind=muon", ["pretrain.optimizer.momentum: missing", "pretrain.optimizer.kind=muon"]),
        ("pretrain.optimizer=muon", ["pretrain.optimizer='muon'", "GROUP@pretrain.optimizer=muon"]),
        ("pretrain.optimizer.beta1=1", ["pretrain.optimizer.beta1=1", "less than 1"]),
        ("model.beta2=1", ["model.beta2=1", "less than 1"]),
        ("pretrain.freeze=[encoder]", ["pretrain.freeze[0]='encoder'", "'decoder'"]),
        ("evaluation.pursuit=matchin", ["evaluation.pursuit='matchin'", "or null", "did you mean `matching`?"]),
        ("sae.encoder=mlpp", ["sae.encoder='mlpp'", "'linear', 'mlp' or 'pursuit'", "did you mean `mlp`?"]),
        ("sae.mlp.depth=0", ["sae.mlp.depth=0", "at least 1"]),
        ("pretrain.start.furthest=1", ["pretrain.start.furthest=1", "less than 1"]),
        ("data.max_tokens=5", ["data.max_tokens=5", "data.context=128"]),
        ("data.separator=bso", ["data.separator='bso'", "'auto', 'none', 'bos' or 'eos'", "did you mean `bos`?"]),
        ("data.separator=null", ["data.separator=null", "'auto', 'none'"]),
        ("data.attend_across=no_way", ["data.attend_across='no_way'", "true or false"]),
        ("connectivity=file", ["connectivity.path=null", "method=file"]),
        ("connectivity.budget=by_scores", ["connectivity.budget='by_scores'", "did you mean `by_score`?"]),
        ("finetune.regrow.share=1", ["finetune.regrow.share=1", "less than 1"]),
        ("finetune.regrow.every=0", ["finetune.regrow.every=0", "at least 1 or null"]),
        ("finetune.refit.ridge=-1", ["finetune.refit.ridge=-1", "at least 0"]),
        ("finetune.revive.until=0", ["finetune.revive.until=0", "more than 0"]),
        ("connectivity.path=here", ["connectivity.path=here", "connectivity.method=contribution"]),
        ("logger.kind=wandb", ["logger=wandb"]),
        ("paths.artifacts=''", ["paths.artifacts=''", "text that is not empty"]),
        ("ckpt_path=/nowhere.ckpt", ["ckpt_path=/nowhere.ckpt: no such file"]),
        ("pretrain.init_from=/nowhere", ["pretrain.init_from=/nowhere: no such file or folder"]),
        ("pretrain.init_from=''", ["pretrain.init_from=''", "text that is not empty or null"]),
        ("model=local", ["model.path: needs a value", "`model.path="]),
        ("data=hub", ["data.name: needs a value", "`data.name=NeelNanda/pile-10k`"]),
        ("sae.k=${sae.kk}", ["sae.k=${sae.kk}", "'sae.kk' not found", "did you mean `sae.k`?"]),
        ("sae.k=${oc.env:SCAE_NOT_SET}", ["sae.k=", "SCAE_NOT_SET"]),
        ("sites.layers=['${nope}']", ["sites.layers=", "'nope' not found"]),
    ],
)
def test_a_mistake_is_named(composed: Composed, override: str, told: list[str]) -> None:
    message = refusal(composed, override)
    for part in told:
        assert part in message
    assert "pydantic" not in message
    assert "literal[" not in message


def test_a_search_needs_its_target_and_the_number_of_features(composed: Composed) -> None:
    pursuit = ("sae.encoder=pursuit", "stages=[model,pretrain]")
    told = "sae.encoder=pursuit searches for what a dictionary should write, which a transcoder (mlp) does not see"
    assert told in refusal(composed, *pursuit)
    told = "sae.encoder=pursuit: a search needs the number of features of each token, which sae=topk alone says"
    for sae in ("vanilla", "batchtopk"):
        message = refusal(composed, *pursuit, "sites.kinds=[attn]", f"sae={sae}")
        assert f"{told}; found sae.kind={sae}" in message
    parse(composed(*pursuit, "sites.kinds=[attn]"))
    several = refusal(composed, "sites.kinds=[clt]", "evaluation.pursuit=matching")
    assert "evaluation.pursuit=matching: it searches for one dictionary at a time" in several


@pytest.mark.parametrize("encoder", [("sae.encoder=mlp",), ("sae.encoder=pursuit", "sites.kinds=[attn]")])
def test_what_has_no_row_a_feature_is_not_pruned(composed: Composed, encoder: tuple[str, ...]) -> None:
    assert parse(composed(*encoder)).stages == ["model", "activations", "pretrain", "evaluate", "analyze"]
    message = refusal(composed, *encoder, "stages=[model,pretrain,finetune]")
    assert f"{encoder[0]}: a feature has no direction there that connections are weighed along" in message
    assert "allowed: stages=auto" in message


def test_the_rules_know_which_sites_are_transcoders() -> None:
    from scae.sites import IN_LAYERS, Site

    assert tuple(kind for kind in IN_LAYERS if Site(0, kind).transcoder) == TRANSCODERS


def test_all_problems_are_told_at_once(composed: Composed) -> None:
    message = refusal(composed, "sae.k=abc", "seed=-1", "+x=1")
    assert "3 problems" in message
    assert len(message.splitlines()) == 4


def test_the_keys_of_a_section_are_told_once(composed: Composed) -> None:
    message = refusal(composed, "+sae.kk=3", "+sae.auxkk=3")
    assert message.count("allowed in sae") == 1
    assert "sae.auxkk: no such key; did you mean `sae.auxk`?" in message


def test_what_needs_a_value_is_told_at_once(composed: Composed) -> None:
    message = refusal(composed, "model=local", "data=text")
    assert "model.path" in message
    assert "data.path" in message


def test_an_item_wrong_in_a_list_is_not_told_to_be_all(composed: Composed) -> None:
    assert "all" not in refusal(composed, "sites.layers=[0,a]").partition("allowed:")[2]


def test_a_separator_needs_two_documents_in_a_window(composed: Composed) -> None:
    told = refusal(composed, "data.packing=document", "data.separator=bos")
    assert "data.separator=bos: data.packing=document puts one document in a window" in told
    assert "allowed: auto, none" in told


@pytest.mark.parametrize(
    ("overrides", "separator", "attend_across"),
    [
        ([], "eos", True),  # the embedded model is trained on the windows: nothing to measure
        (["data.separator=bos", "data.attend_across=false"], "bos", False),
        (["data.packing=document", "data.attend_across=false"], "none", True),
        (["model=hub", "model.name=a/b"], "auto", True),
        (["model=hub", "model.name=a/b", "data.packing=document"], "none", True),
        (["model=hub", "model.name=a/b", "data.separator=eos"], "eos", True),
    ],
)
def test_what_needs_no_measurement_is_settled(
    composed: Composed, overrides: list[str], separator: str, attend_across: bool
) -> None:
    data = parse(composed(*overrides)).data
    assert data.separator == separator
    assert data.attend_across == attend_across


def test_an_optimiser_that_is_not_installed_is_refused(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for key in ("pretrain.optimizer", "finetune.optimizer"):
        told = refusal(composed, f"optimizer@{key}=schedulefree")
        assert f"{key}.kind=schedulefree: schedulefree is not installed" in told
        assert "pip install -e '.[schedulefree]'" in told


@pytest.mark.parametrize("key", ["sae.features", "sae.expansion"])
def test_a_suite_that_no_memory_holds_is_refused(composed: Composed, key: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"{key}=1000000000: .* 8 dictionaries of .* allowed: at most \d+"
    ) as refused:
        parse(composed("sae.expansion=null", f"{key}=1000000000"))
    most = str(refused.value).rpartition(" ")[2]
    parse(composed("sae.expansion=null", f"{key}={most}"))


@pytest.mark.parametrize("installed", [True, False])
def test_what_quantised_models_need(composed: Composed, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr("scae.config.rules.has_bitsandbytes", lambda: installed)
    model = ("model=hub", "model.name=a/b", "model.quantize=4bit")
    told = refusal(composed, *model, "trainer.accelerator=cpu")
    assert "model.quantize=4bit: quantised models run on a GPU, and trainer.accelerator=cpu; allowed: null" in told
    assert ("needs the package bitsandbytes" in told) != installed
    if installed:
        assert parse(composed(*model)).model.quantize == "4bit"
    else:
        told = refusal(composed, *model)
        assert told.endswith('model.quantize=4bit: needs the package bitsandbytes; pip install -e ".[gpu]"')
    parse(composed(*model, "model.quantize=null", "trainer.accelerator=cpu"))
    assert "'8bit' or '4bit' or null" in refusal(composed, *model, "model.quantize=4")
    assert "model.quantize: no such key" in refusal(composed, "+model.quantize=4bit")


def test_a_model_from_elsewhere_is_asked_for_its_shape_when_it_is_opened(
    composed: Composed, build_tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scae.experiment import workshop
    from scae.experiment.plan import Plan

    overrides = ["sae.expansion=1", "sae.k=40", "sites.layers=[0,9]", "loss.block_mse.layers=[9]"]
    config = parse(composed("model=hub", "model.name=a/b", *overrides))
    monkeypatch.setattr(workshop, "open_model", lambda *_, **__: build_tiny("gpt2").lm)
    with pytest.raises(ConfigError) as refused:
        _ = workshop.Workshop(config, Plan(config)).lm
    for told in (
        "sae.k=40: more than the 16 features of sae.expansion=1 x 16",
        "sites.layers=[0, 9]: the model has 2 layers; allowed: 0 to 1",
        "loss.block_mse.layers=[9]: the model has 2 layers; allowed: 0 to 1",
    ):
        assert told in str(refused.value)


@pytest.mark.parametrize(
    ("sae", "override", "told"),
    [
        (
            "groupmax",
            "sae.k=30",
            ["sae.k=30: groups of one size cannot be made of the 512 features", "allowed: 16, 32"],
        ),
        ("groupmax", "sae.k=513", ["sae.k=513: more than the 512 features"]),
        ("matryoshka", "sae.groups=[0.5,0.25]", ["sae.groups=[0.5, 0.25]: together 0.75; needed", "together 1"]),
        ("matryoshka", "sae.groups=[0.001,0.999]", ["sae.groups=", "less than a feature of the 512", "0.00195"]),
        ("matryoshka", "sae.groups=[0.5]", ["sae.groups=[0.5]", "at least 2"]),
        ("jumprelu", "sae.penalty=l1", ["sae.penalty='l1'", "'l0' or 'tanh'"]),
        ("jumprelu", "sae.bandwidth=0", ["sae.bandwidth=0", "more than 0"]),
        ("gated", "sae.k=3", ["sae.k: no such key", "price"]),
    ],
)
def test_a_mistake_in_the_settings_of_a_type_is_named(
    composed: Composed, sae: str, override: str, told: list[str]
) -> None:
    message = refusal(composed, f"sae={sae}", f"+{override}" if sae == "gated" else override)
    for part in told:
        assert part in message


def test_a_skip_needs_a_transcoder_and_no_stage_that_prunes(composed: Composed) -> None:
    assert parse(composed("sae.skip=true", "stages=[model,pretrain]")).sae.skip
    assert parse(composed("sae.skip=true")).stages == ["model", "activations", "pretrain", "evaluate", "analyze"]
    assert "a connection; so there is nothing for finetune to prune; allowed: stages=auto" in refusal(
        composed, "sae.skip=true", "stages=[model,pretrain,finetune]"
    )
    message = refusal(composed, "sae.skip=true", "stages=[model,pretrain]", "sites.kinds=[attn]")
    assert "sites.kinds=['attn'] has none, allowed: kinds with mlp" in message


def test_force_needs_its_stage(composed: Composed) -> None:
    assert "force=['finetune']: finetune is not among" in refusal(composed, "stages=[model]", "force=[finetune]")


@pytest.mark.parametrize(
    "overrides",
    [
        ["connectivity.C=0"],
        ["connectivity=none"],
        ["pretrain.lr=1", "trainer.clip=1"],
        ["data.prepend_bos=true"],
        ["data.prepend_bos=auto", "trainer.devices=auto"],
        ["sites.layers=[0,2]", "sites.kinds=[attn]"],
        ["sae.features=64", "sae.expansion=null", "sae.k=64"],
        ["loss.logit_kl.weight=0.1"],
        [f"stages=[{','.join(STAGES)}]", "force=[evaluate,model]"],
        ["trainer=ddp", "trainer.devices=4"],
        ["sae.k=${sae.expansion}"],
    ],
)
def test_what_is_legal(composed: Composed, overrides: list[str]) -> None:
    parse(composed(*overrides))


def test_files_are_looked_for(composed: Composed, tmp_path: Path) -> None:
    assert "no such file, folder or glob" in refusal(composed, "data=text", f"data.path={tmp_path}/none")
    assert "no .txt, .jsonl or .parquet" in refusal(composed, "data=text", f"data.path={tmp_path}")
    (tmp_path / "a.txt").touch()
    assert "an empty corpus" in refusal(composed, "data=text", f"data.path={tmp_path}")
    (tmp_path / "b.txt").write_text("words")
    parse(composed("data=text", f"data.path=[{tmp_path}/*.txt]"))
    assert "no config.json there" in refusal(composed, "model=local", f"model.path={tmp_path}")


@pytest.mark.parametrize("key", ["paths.artifacts", "paths.output"])
def test_folders_that_cannot_be_written(
    composed: Composed, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert f"{key}={path}: {tmp_path / 'file'} is a file" in refusal(composed, f"{key}={path}")
    parse(composed(f"{key}={tmp_path}/new/folder"))
    monkeypatch.setattr("scae.config.rules.os.access", lambda path, mode: path != tmp_path)  # root may write anywhere
    told = refusal(composed, f"{key}={tmp_path}/new/folder")
    assert f"{key}={tmp_path}/new/folder: nothing can be written into {tmp_path}" in told
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.usefixtures("composed")
def test_values_are_plain_and_without_hydra() -> None:
    plain = values(compose("train", overrides=["paths.output=out"], return_hydra_config=True))
    assert "hydra" not in plain
    assert type(plain["force"]) is list
    assert type(plain["sae"]["auxk"]) is dict


def test_the_sweep_experiment_sweeps(composed: Composed) -> None:
    config = compose("train", overrides=["experiment=sweep_c"], return_hydra_config=True)
    assert config.hydra.mode.name == "MULTIRUN"
    assert dict(config.hydra.sweeper.params) == {"connectivity.C": "4,16,64,256"}
    assert parse(composed("experiment=sweep_c")).evaluation.twins


def test_what_validation_goes_by_must_be_measured(composed: Composed) -> None:
    on = ("pretrain.validation.every=5", "finetune.validation.every=5")
    told = refusal(composed, *on, "pretrain.validation.metric=logit_kl", "finetune.validation.metric=auxk")
    assert "pretrain.validation.metric=logit_kl: allowed: loss, fvu_mean, fvu_max, recon (the terms" in told
    assert "finetune.validation.metric=auxk: allowed: loss, fvu_mean, fvu_max, recon, logit_kl (the terms" in told
    parse(composed(*on, "finetune.validation.metric=logit_kl"))
    parse(composed("finetune.validation.metric=logit_kl", "loss=recon"))  # nothing is validated
