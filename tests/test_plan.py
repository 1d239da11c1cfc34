"""Which keys change which artifact's name: exactly those that change its content."""

import copy
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from scae.command import values
from scae.config import Config, ConfigError, parse
from scae.experiment.plan import VERSIONS, Plan
from scae.experiment.table import made_by

CONF = Path(__file__).parents[1] / "conf"
STAGES = ("model", "pretrain", "select", "finetune", "evaluate", "analyze")
LEAVES = ("evaluate", "analyze")  # made from the finetuned suite, and nothing is made from them
Of = Callable[..., Config]


def is_group(override: Override) -> bool:
    return (CONF / override.key_or_group).is_dir()


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Of]:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "a.txt").write_text("some text\n")
    fixed = [f"paths.artifacts={folder}", f"paths.output={folder}", "data=text", f"data.path={folder / 'a.txt'}"]

    parser = OverridesParser.create()

    @functools.cache
    def chosen(groups: tuple[str, ...]) -> DictConfig:
        return compose("train", overrides=[*fixed, "trainer=cpu", *groups])

    def config(*overrides: str) -> Config:
        """Hydra takes a quarter of a second to compose, so a choice of groups is composed once."""
        parsed = parser.parse_overrides(list(overrides))
        groups = tuple(str(part.input_line) for part in parsed if "@" in str(part.input_line) or is_group(part))
        composed = copy.deepcopy(chosen(groups))
        for part in parsed:
            if part.input_line not in groups:
                OmegaConf.update(composed, part.key_or_group, part.value(), force_add=False)
        return parse(values(composed))

    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield config


def names(config: Config) -> dict[str, Any]:
    plan = Plan(config)
    return {
        "model": plan.model.name if plan.model else None,
        "pretrain": plan.pretrain.name,
        "select": plan.select(plan.chosen).name,
        "finetune": plan.finetune(plan.pruned).name,
        "evaluate": plan.evaluate.name,
        "analyze": plan.analyze.name,
    }


def changed(of: Of, *overrides: str, base: tuple[str, ...] = ()) -> set[str]:
    before, after = names(of(*base)), names(of(*base, *overrides))
    return {stage for stage in STAGES if before[stage] != after[stage]}


def downstream_of(stage: str) -> set[str]:
    return {stage} if stage in LEAVES else set(STAGES[STAGES.index(stage) :])


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("model.steps=7", "model"),
        ("model.d_mlp=64", "model"),
        ("data.context=64", "model"),
        ("data.heldout=0.2", "model"),
        ("data.separator=bos", "model"),
        ("data.attend_across=false", "model"),
        ("seed=1", "model"),
        ("sae.k=3", "pretrain"),
        ("sae=batchtopk", "pretrain"),
        ("sae.normalise=none", "pretrain"),
        ("pretrain.loss.auxk.weight=0", "pretrain"),
        ("sites.embed=true", "pretrain"),
        ("sites.unembed=true", "pretrain"),
        ("loss.auxk.weight=0", "finetune"),
        ("sites=mlp_transcoder", "pretrain"),
        ("pretrain.steps=7", "pretrain"),
        ("pretrain.lr=1e-2", "pretrain"),
        ("pretrain.freeze=[decoder]", "pretrain"),
        ("loss@pretrain.loss=e2e", "pretrain"),
        ("optimizer@pretrain.optimizer=muon", "pretrain"),
        ("pretrain.optimizer.beta2=0.99", "pretrain"),
        ("optimizer@finetune.optimizer=adam", "finetune"),
        ("finetune.optimizer.momentum=0.9", "finetune"),
        ("pretrain.lr_features=16384", "pretrain"),
        ("pretrain.lr_sites={0.attn: 0.5}", "pretrain"),
        ("finetune.lr_sites={0.attn: 0.5}", "finetune"),
        ("finetune.settled.fvu=0.2", "finetune"),
        ("finetune.settled.fvu=null", "finetune"),
        ("pretrain.decay_shape=cosine", "pretrain"),
        ("finetune.decay_to=0.1", "finetune"),
        ("finetune.stagger=3", "finetune"),
        ("trainer.accumulate=2", "pretrain"),
        ("trainer.clip=null", "pretrain"),
        ("connectivity.C=3", "select"),
        ("connectivity.scope=per_site", "select"),
        ("connectivity.weighting=all", "select"),
        ("connectivity.tokens=99", "select"),
        ("connectivity.budget=even", "select"),
        ("connectivity=random", "select"),
        ("connectivity=none", "select"),
        ("loss=ce", "finetune"),
        ("loss.logit_kl.temperature=2.0", "finetune"),
        ("finetune.steps=7", "finetune"),
        ("finetune.unit_norm=false", "finetune"),
        ("finetune.regrow.every=5", "finetune"),
        ("finetune.refit.tokens=99", "finetune"),
        ("finetune.refit.ridge=0.5", "finetune"),
        ("finetune.revive.every=5", "finetune"),
        ("evaluation.twins=true", "evaluate"),
        ("evaluation.pursuit=gradient", "evaluate"),
        ("analysis.tokens=999", "analyze"),
        ("analysis.examples=3", "analyze"),
        ("analysis.neighbours=3", "analyze"),
        ("analysis.edges=null", "analyze"),
        ("analysis.prompts=null", "analyze"),
    ],
)
def test_what_a_key_changes(of: Of, override: str, first: str) -> None:
    assert changed(of, override) == downstream_of(first)


def test_the_text_that_is_evaluated_on_is_looked_at_where_no_other_is_said(of: Of) -> None:
    assert changed(of, "evaluation.tokens=999") == {"evaluate", "analyze"}
    assert changed(of, "evaluation.tokens=999", base=("analysis.tokens=99",)) == {"evaluate"}
    tokens = of().evaluation.tokens
    assert changed(of, f"analysis.tokens={tokens}") == set()


@pytest.mark.parametrize(
    "override",
    [
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "trainer=ddp",
        "trainer.progress=false",
        "trainer.checkpoint_minutes=0.1",
        "trainer.checkpoint_steps=7",
        "trainer.keep_checkpoints=2",
        "trainer.chunk_mb=1",
        "logger=tensorboard",
        "logger=wandb",
        "logger.every=3",
        "connectivity.chunk_mb=1",
        "stages=[pretrain]",
        "force=[finetune]",
        "optimized_metric=pruned/kl",
        "paths.output=elsewhere",
        "paths.artifacts=elsewhere",
    ],
)
def test_what_changes_no_number_changes_no_name(of: Of, override: str) -> None:
    assert changed(of, override) == set()


def test_the_precision_is_part_of_every_fit_of_the_suite(of: Of) -> None:
    """The embedded model is trained in float32 whatever `trainer.precision` says."""
    assert changed(of, "trainer.precision=bf16-mixed") == downstream_of("pretrain")


def test_a_file_of_connections_is_known_by_its_content(of: Of, tmp_path: Path) -> None:
    def name(path: Path) -> str:
        return names(of("connectivity=file", f"connectivity.path={path}"))["select"]

    for folder, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.safetensors").write_bytes(content)
    one, same, other = (name(tmp_path / folder / "x.safetensors") for folder in "abc")
    assert one == same
    assert one != other


def test_what_a_suite_begins_from_is_known_by_its_content(of: Of, tmp_path: Path) -> None:
    def made(folder: Path, content: str) -> str:
        folder.mkdir(exist_ok=True)
        (folder / "suite.json").write_text("{}")
        (folder / "suite.safetensors").write_text(content)
        return names(of(f"pretrain.init_from={folder}"))["pretrain"]

    one, other = made(tmp_path / "a", "x"), made(tmp_path / "b", "x")
    assert one == other != made(tmp_path / "b", "y")
    assert one != names(of())["pretrain"]
    with pytest.raises(ConfigError, match=r"pretrain\.init_from=.*: no dictionary there"):
        names(of(f"pretrain.init_from={tmp_path}"))


def test_the_text_is_known_by_its_content(of: Of, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = names(of(f"data.path={path}"))
    path.write_text("two")
    after = names(Config.model_validate(of(f"data.path={path}").model_dump()))
    assert all(before[stage] != after[stage] for stage in STAGES)


def test_a_text_that_is_moved_is_the_same_text(of: Of, tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("one")
    here, there, listed = (
        names(of(f"data.path={path}"))
        for path in (tmp_path / "here", tmp_path / "there", f"[{tmp_path / 'there' / 'a.txt'}]")
    )
    assert here == there == listed


@pytest.mark.parametrize("stage", STAGES)
def test_the_version_of_a_stage_renames_it_and_what_follows(
    of: Of, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(of())
    monkeypatch.setitem(VERSIONS, stage, 99)
    after = names(of())
    assert {one for one in STAGES if before[one] != after[one]} == downstream_of(stage)


def test_a_local_model_is_known_by_its_content(of: Of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scae.config.rules.has_bitsandbytes", lambda: True)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    local = ("model=local", f"model.path={tmp_path}", "data.separator=none", "trainer.accelerator=auto")
    config = of(*local)
    assert Plan(config).model is None
    before = names(config)
    rounded = [
        names(of(*local, f"model.{key}"))["pretrain"] for key in ("dtype=bfloat16", "quantize=8bit", "quantize=4bit")
    ]
    assert len({before["pretrain"], *rounded}) == 4
    (tmp_path / "config.json").write_text('{"changed": 1}')
    assert names(config)["pretrain"] != before["pretrain"]


def test_nothing_is_named_before_its_separator_is_known(of: Of) -> None:
    assert changed(of, "data.separator=eos") == set()  # what auto means for the embedded model
    with pytest.raises(ValueError, match=r"data\.separator=auto is settled before"):
        names(of("model=hub", "model.name=a/b"))


def test_twins(of: Of) -> None:
    assert Plan(of()).twins == {}
    plans = [Plan(of("evaluation.twins=true", f"connectivity.C={C}")) for C in (4, 8)]
    few, more = ({name: plan.finetune(twin).name for name, twin in plan.twins.items()} for plan in plans)
    assert set(few) == {"random", "none", "dense_finetuned", "plain_finetuned"}
    assert few["none"] == more["none"]
    assert few["dense_finetuned"] == more["dense_finetuned"]
    assert few["plain_finetuned"] == more["plain_finetuned"]
    assert few["random"] != more["random"]
    for plan in plans:
        made = [plan.finetune(plan.pruned).name, *(plan.finetune(twin).name for twin in plan.twins.values())]
        assert len(set(made)) == 5
        drawn = plan.twins["random"].selection
        assert drawn is not None
        assert drawn.shuffled
        assert plan.select(drawn).upstream == (plan.select(plan.chosen).name,)
        assert plan.select(drawn).name != plan.select(plan.chosen).name
        assert plan.selections[:2] == [plan.chosen, drawn]
    assert Plan(of("evaluation.twins=true")).evaluate.name != Plan(of()).evaluate.name


@pytest.mark.parametrize("method", ["all", "none", "random"])
def test_only_chosen_connections_move(of: Of, method: str) -> None:
    assert changed(of, "finetune.regrow.every=5", base=(f"connectivity={method}",)) == set()


def test_settings_of_what_is_off_name_nothing(of: Of) -> None:
    assert changed(of, "connectivity.spread=2", base=("connectivity.budget=even",)) == set()
    for key in ("share=0.5", "batches=1", "until=0.2"):
        assert changed(of, f"finetune.regrow.{key}", base=("finetune.regrow.every=null",)) == set()


def test_a_budget_a_site_is_even(of: Of) -> None:
    assert changed(of, "connectivity.budget=even", base=("connectivity.scope=per_site",)) == set()


def test_connections_that_do_not_depend_on_the_budget_do_not_depend_on_it(of: Of) -> None:
    for method in ("none", "all"):
        base = (f"connectivity={method}",)
        assert changed(of, "connectivity.C=3", base=base) <= {"evaluate"}
        assert changed(of, "connectivity.weighting=all", base=base) == set()
    random = ("connectivity=random",)
    assert changed(of, "connectivity.weighting=all", base=random) == set()
    for override in ("connectivity.C=3", "connectivity.scope=per_site", "seed=1"):
        assert changed(of, override, base=random) >= downstream_of("select")


def test_how_a_budget_is_spent_matters_where_it_is_spent_by_score(of: Of) -> None:
    by_score = ("connectivity.budget=by_score",)
    assert changed(of, "connectivity.spread=2", base=by_score) == downstream_of("select")
    even, spent = (Plan(of("evaluation.twins=true", *budget)) for budget in (("connectivity.budget=even",), by_score))
    drawn = [plan.select(plan.selections[1]).name for plan in (even, spent)]
    assert drawn[0] != drawn[1], "as many into each feature"
    for name in set(even.twins) - {"random"}:
        assert even.finetune(even.twins[name]).name == spent.finetune(spent.twins[name]).name


def test_connections_move_in_the_suite_that_the_experiment_is_about_alone(of: Of) -> None:
    moving = ("finetune.regrow.every=5",)
    assert changed(of, "finetune.regrow.share=0.5", base=moving) == downstream_of("finetune")
    stay, move = (Plan(of("evaluation.twins=true", *regrow)) for regrow in (("finetune.regrow.every=null",), moving))
    assert stay.finetune(stay.pruned).name != move.finetune(move.pruned).name
    for name in stay.twins:
        assert stay.finetune(stay.twins[name]).name == move.finetune(move.twins[name]).name


def test_a_checkpoint_can_belong_to_every_fit(of: Of) -> None:
    plan = Plan(of("evaluation.twins=true"))
    assert plan.model is not None
    expected = {plan.model.name, plan.pretrain.name, plan.finetune(plan.pruned).name}
    expected |= {plan.finetune(twin).name for twin in plan.twins.values()}
    assert {artifact.name for artifact in made_by(plan, ["model", "pretrain", "finetune"])} == expected


def test_the_sample_behind_a_selection_depends_on_what_names_it(of: Of) -> None:
    """Two configurations whose selections have one name measure on the same windows."""
    import torch

    from scae.data import TokenWindows
    from scae.experiment.workshop import Workshop

    windows = TokenWindows(
        tokens=torch.arange(4000, dtype=torch.int32).view(250, 16),
        lengths=torch.full((250,), 16, dtype=torch.int32),
        bos=False,
    )
    seen = {}
    for size in (4, 16, 24):
        config = of("data.context=16", "connectivity.tokens=512", f"evaluation.batch_size={size}")
        stages: Any = Workshop(config, Plan(config))
        stages.windows = (windows, windows)
        stages._trace = lambda batch: batch
        read = sorted(row for batch in stages.sample(config.connectivity.tokens) for row in batch.tokens[:, 0].tolist())
        seen.setdefault(names(config)["select"], []).append(read)
    for read in seen.values():
        assert all(one == read[0] for one in read)


def test_planning_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text\n")
    script = f"""
import sys
from hydra import compose, initialize_config_dir
from scae.config import parse
from scae.command import values
from scae.experiment.plan import Plan
with initialize_config_dir({str(CONF)!r}, version_base="1.3"):
    config = parse(values(compose("train", overrides=["paths.output=out", "data=text", "data.path=a.txt",
                                                      "evaluation.twins=true"])))
plan = Plan(config)
print(plan.model.name, plan.evaluate.is_complete, plan.selections)
heavy = {{"torch", "lightning", "transformers", "transformer_lens", "numba"}} & set(sys.modules)
assert not heavy, heavy
"""
    environment = os.environ | {"PYTHONPATH": str(CONF.parent)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
