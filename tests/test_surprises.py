"""Overrides of every key of the configuration end in one of two ways: it is accepted, or one error names the key, the
value found and what is allowed. The keys are those of the schema, so a new one is drawn without a line here."""

import copy
import random
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel

from scae.command import values
from scae.command.messages import message
from scae.config import Config, parse
from scae.config.errors import lookup, section_at, shown

CONF = Path(__file__).parents[1] / "conf"
DRAWS = 14  # overrides a key, besides what its own type suggests
AT_LEAST = 500
LONGEST = 2_000  # characters of an error that a reader still takes in
SAYS_WHAT_IS_ALLOWED = re.compile(
    "allowed|needed|needs|must |at most|exactly one|no such|not found|does not exist|it was removed|lower|limit"
    "|To use it|remove [+] prefix"
)

# As a user types them behind `key=`.
ANYTHING = (
    *("0", "1", "-1", "2", "3", "0.5", "-0.0", "1.0", "1e-30", "1e30", "1e400", "nan", "inf", "-inf"),
    *(str(2**31), str(2**32), str(2**63), str(10**30), "1" * 5_000, "0x10", "1_000", "1e3"),
    *(
        "",
        "''",
        "null",
        "'null'",
        "true",
        "false",
        "'1'",
        "'a b'",
        "abc",
        "all",
        "x" * 5_000,
        "é∀😀",
        "%",
        "~",
        "..",
        "/",
    ),
    *("[]", "[1]", "[a,b]", "[[1]]", "[null]", "[1,1]", "{}", "{a:1}", "{kind:tiny}", "{weight:1}"),
    *("???", "${seed}", "${nope}", "${", "$", "'", '"', "[", "}", "a=b", "a:b", "a,b", "\\", "\t", "'\\n'", "!!int"),
    *("${oc.env:SCAE_NOT_SET}", "'${oc.decode:[}'", "${.}", "${..seed}", "'\\0'"),
)
COMMANDS = ("~{key}", "+{key}=1", "++{key}=1", "{key}.deeper=1", "+{key}.deeper=1", "{key}s=1", "{key}@x=1", "{key}")


def branches(annotation: Any) -> Iterator[Any]:
    """The types that a value may have, whatever unions and annotations they are wrapped in."""
    if get_origin(annotation) is Annotated:
        yield from branches(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for branch in get_args(annotation):
            yield from branches(branch)
    else:
        yield annotation


def keys(section: type[BaseModel], parent: str = "") -> Iterator[str]:
    """Every key with a value, dotted; of a section that depends on its kind, the keys of every kind."""
    for name, field in section.model_fields.items():
        sections = [b for b in branches(field.annotation) if isinstance(b, type) and issubclass(b, BaseModel)]
        for one in sections:
            yield from keys(one, f"{parent}{name}.")
        if not sections:
            yield f"{parent}{name}"


KEYS = tuple(dict.fromkeys(keys(Config)))


def fitting(key: str) -> list[str]:
    """Values that the schema itself suggests for a key: each of a choice, and the ends of a range."""
    section, found = [Config], []
    *parents, name = key.split(".")
    for part in parents:
        fields = [one.model_fields[part] for one in section if part in one.model_fields]
        section = [b for field in fields for b in branches(field.annotation) if b is not types.NoneType]
    for one in section:
        if name in one.model_fields:
            field = one.model_fields[name]
            found += [str(choice) for choice in re.findall(r"'([^']*)'", str(field.annotation))]
            ends = [getattr(rule, end, None) for rule in field.metadata for end in ("ge", "gt", "le", "lt")]
            found += [str(end) for end in ends if end is not None]
    return list(dict.fromkeys(found))


def drawn(key: str) -> list[str]:
    """The overrides of a key, the same every time."""
    source = random.Random(key)
    somehow = [f"{key}={value}" for value in source.sample(ANYTHING, DRAWS)]
    commands = [command.format(key=key) for command in source.sample(COMMANDS, 2)]
    return [*(f"{key}={value}" for value in fitting(key)), *somehow, *commands]


OVERRIDES = {key: drawn(key) for key in KEYS}


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], DictConfig]]:
    """The composed configuration in which a key exists: the default, or the first choice of its group that has it.
    What only the user knows is what the schema gives as an example, and the files of those examples are there."""
    composed: dict[str, DictConfig] = {}

    def compose_choice(choice: str) -> DictConfig:
        config = compose("train", overrides=["paths.output=out", *([choice] if choice else [])])
        raw: Any = OmegaConf.to_container(config)
        for section, names in raw.items():
            for name in [name for name, value in names.items() if value == "???"] if isinstance(names, dict) else []:
                field = section_at([section], raw, Config).model_fields[name]
                config[section][name] = field.examples[0]
        return config

    def find(key: str) -> DictConfig:
        parent, _, name = key.rpartition(".")
        group = key.partition(".")[0]
        if parent.endswith(".optimizer"):  # a stage's own
            group, mounted = "optimizer", f"optimizer@{parent}"
        else:
            mounted = group
        options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        for choice in ("", *(f"{mounted}={option}" for option in options if option not in ("base", "windows"))):
            if choice not in composed:
                composed[choice] = compose_choice(choice)
            if name in ((OmegaConf.select(composed[choice], parent) if parent else composed[choice]) or ()):
                return composed[choice]
        raise AssertionError(f"{key} is in the schema, but no choice of conf/ sets it")

    folder = tmp_path_factory.mktemp("examples")
    for name in ("texts/a.txt", "models/pythia-70m/config.json", "models/pythia-70m/tokenizer.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a text")
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(CONF), version_base="1.3"):
        patch.chdir(folder)
        yield find


def refusal(config: DictConfig, override: str) -> str | None:
    """What the command says to a user of this override; None where the configuration is accepted."""
    try:
        config = copy.deepcopy(config)
        parsed = OverridesParser.create().parse_overrides([override])
        ConfigLoaderImpl.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=True)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
        parse(values(config))
    except Exception as error:
        told = message(error, {})
        if told is None:
            raise
        return told
    return None


def surprise(config: DictConfig, key: str, override: str) -> str | None:
    """What is wrong with how an override ends; None where it is one of the two ways."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train.py", override])
            told = refusal(config, override)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    if told is None:
        return None
    raw: Any = OmegaConf.to_container(config)
    readers = [reader for reader in KEYS if lookup(raw, reader.split(".")) == f"${{{key}}}"]
    if not any(name in told for name in (key, *readers)):
        return f"the key is not named: {told[:300]}"
    if not SAYS_WHAT_IS_ALLOWED.search(told):
        return f"what is allowed is not said: {told[:300]}"
    if len(told) > LONGEST:
        return f"an error of {len(told):,} characters"
    return None if _names_what_was_found(override, told) else f"the value is not named: {told[:300]}"


def _names_what_was_found(override: str, told: str) -> bool:
    """As typed or as read (1e400 is inf), or the item of a list that is wrong; a key that is not there has none."""
    if any(words in told for words in ("no such key", "needs a value", "missing; it was removed", "does not exist")):
        return True
    if override[:40] in told or "${" in override:
        return True
    value = OverridesParser.create().parse_override(override).value()
    found = [value, *(value if isinstance(value, list) else [])]
    return any(text[:40] in told for one in found for text in (str(one), repr(one), shown(one)))


@pytest.mark.parametrize("key", KEYS)
def test_an_override_is_accepted_or_refused_in_one_clear_error(chosen: Callable[[str], DictConfig], key: str) -> None:
    config = chosen(key)
    surprises = {override[:120]: surprise(config, key, override) for override in OVERRIDES[key]}
    assert not {override: what for override, what in surprises.items() if what}


def test_as_many_as_promised_are_drawn() -> None:
    assert sum(map(len, OVERRIDES.values())) >= AT_LEAST
