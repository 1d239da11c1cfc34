"""The configuration as Hydra composed it, as plain values, and what is wrong with it before any type is checked."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from scae.artifacts import is_first_process
from scae.command.messages import first_line
from scae.command.relaunch import overrides
from scae.config import Config
from scae.config.errors import cannot_run, known_keys, lookup, missing_value, nearest, unknown_key

log = logging.getLogger(__name__)


def values(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, without the hydra node; raises ConfigError where a value is not there."""
    raw: Any = OmegaConf.to_container(config, resolve=False)
    raw.pop("hydra", None)
    missing = [key for key in _dotted(raw) if lookup(raw, key.split(".")) == "???"]
    if missing:
        raise cannot_run(missing_value(key, raw, Config) for key in missing)
    if HydraConfig.initialized():
        if problems := list(_preset_problems(raw)):
            raise cannot_run(problems)
        if is_first_process():
            _warn_of_unread_l0(raw)
    try:
        return {key: _resolved(config[key]) for key in raw}
    except OmegaConfBaseException as error:
        raise cannot_run([_interpolation_problem(error, raw)]) from None


def _resolved(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _preset_problems(raw: Mapping[str, Any]) -> Iterator[str]:
    """The keys that a preset sets although the choices beside it do not have them."""
    job = HydraConfig.get().runtime
    folders = [Path(source.path) for source in job.config_sources if source.schema == "file"]
    for group in ("experiment", "local"):
        names = (folder / group / f"{job.choices.get(group)}.yaml" for folder in folders)
        file = next((name for name in names if name.is_file()), None)
        preset: Any = OmegaConf.to_container(OmegaConf.load(file)) if file is not None else {}
        for key in _dotted(preset):
            *parents, name = key.split(".")
            allowed = known_keys(parents, raw, Config)
            if allowed and name not in allowed and name in (lookup(raw, parents) or {}):
                yield f"{unknown_key(key, allowed)}; {group}={job.choices[group]} sets it, `~{key}` takes it back"


def _warn_of_unread_l0(raw: Mapping[str, Any]) -> None:
    """No error: in a sweep over types of dictionaries, one type reads it and another does not."""
    typed = any(part.startswith("l0=") for part in overrides(HydraConfig.get().overrides.task))
    if typed and "${l0}" not in json.dumps(raw):
        choice = HydraConfig.get().runtime.choices["sae"]
        log.warning("l0=%s is not read: sae=%s decides otherwise how many features are active", raw["l0"], choice)


def _interpolation_problem(error: OmegaConfBaseException, raw: Mapping[str, Any]) -> str:
    key = str(error.full_key).partition("[")[0]
    found = lookup(raw, key.split("."))
    wanted = re.search(r"Interpolation key '([^']+)'", str(error))
    dots = re.match(r"\$\{(\.+)", str(found))
    if wanted and dots:  # relative, as `conf/` writes it: the user has removed what it reads
        there = ".".join([*key.split(".")[: -len(dots[1])], wanted[1]])
        return f"{there}: missing; it was removed with ~, and {key}={found} reads it"
    hint = nearest(wanted[1], _dotted(raw)) if isinstance(error, InterpolationKeyError) and wanted else ""
    return f"{key}={found}: {first_line(error)}{hint}"


def _dotted(raw: Mapping[str, Any], parent: str = "") -> Iterator[str]:
    for key, value in raw.items():
        yield f"{parent}{key}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{parent}{key}.")
