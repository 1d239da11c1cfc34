"""What is wrong with a configuration, in the user's words: the key, the value found, what is allowed and the nearest
spelling. The schema is `scae.config.Config`; nothing here knows a key by name, and nothing imports torch.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

# pydantic's error types in plain words; `ctx` of the error fills the braces. Other types keep pydantic's own sentence.
WORDS = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "list_type": "a list, such as [a,b]",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} of them",
    "value_error": "{error}",
}

LONGEST_SHOWN = 200  # characters of a value


class ConfigError(ValueError):
    """A configuration that cannot run: says which key, what was found and what is allowed."""


def cannot_run(problems: Iterable[str]) -> ConfigError:
    """One error for all problems, so that a user repairs them in one go."""
    found = list(problems)
    if len(found) == 1:
        return ConfigError(f"the configuration cannot run: {found[0]}")
    return ConfigError("\n  ".join([f"the configuration cannot run, {len(found)} problems:", *found]))


def explain(error: ValidationError, values: Mapping[str, Any], schema: type[BaseModel]) -> Iterator[str]:
    """One line a key. pydantic reports every branch of a union (`all`, or a list of layers): they become one `or`."""
    allowed: dict[tuple[str, str], list[str]] = {}
    listed: set[tuple[str, ...]] = set()
    for problem in error.errors():
        path, item, found = _locate(problem, values)
        key, of_kind = ".".join(path), _of_kind(path[:-1], values)
        if problem["type"] == "extra_forbidden":
            section, names = tuple(path[:-1]), known_keys(path[:-1], values, schema)
            yield no_such_key(key, names) if section in listed else unknown_key(key, names) + of_kind
            listed.add(section)
        elif problem["type"] == "missing":
            yield f"{key}: missing; it was removed with ~, or the chosen group does not set it{of_kind}"
        else:
            where = f"{key}{item}={shown(found)}"
            allowed.setdefault((key, where), []).append(_allowed(problem, path, values, schema))
    in_items = {key for key, where in allowed if where.startswith(f"{key}[")}
    for (key, where), choices in allowed.items():
        if key in in_items and not where.startswith(f"{key}["):
            continue  # a list was given and one item is wrong: that the list is not `all` is no news
        text = " or ".join(dict.fromkeys(choices))
        names = re.findall(r"'([^']+)'", text)
        yield f"{where}: allowed: {text}{nearest(where.partition('=')[2], names)}"


def unknown_key(key: str, allowed: Iterable[str]) -> str:
    """The message for a key that does not exist: the nearest spelling and every key of its group."""
    names = list(allowed)
    told = no_such_key(key, names)
    parent = key.rpartition(".")[0] or "the top level"
    return f"{told}{' ' if told.endswith('?') else '; '}allowed in {parent}: {', '.join(names)}"


def no_such_key(key: str, allowed: Iterable[str]) -> str:
    """The same without the keys, where they have been said."""
    parent, dot, name = key.rpartition(".")
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f"{key}: no such key" + (f"; did you mean `{parent}{dot}{close[0]}`?" if close else "")


def unknown_choice(group: str, choice: str, options: Iterable[str]) -> str:
    """The message for a choice that a config group does not have."""
    names = list(options)
    return f"{group}={choice}: no such choice; allowed: {', '.join(names)}{nearest(choice, names)}"


def missing_value(key: str, values: Mapping[str, Any], schema: type[BaseModel]) -> str:
    """The message for a key whose value only the user knows (`???` in `conf/`), with an example from the schema."""
    *parents, name = key.split(".")
    section = section_at(parents, values, schema)
    field = section.model_fields.get(name) if section else None
    examples = field.examples if field is not None and field.examples else ["VALUE"]
    return f"{key}: needs a value, for example `{key}={examples[0]}`"


def known_keys(path: list[str], values: Mapping[str, Any], schema: type[BaseModel]) -> list[str]:
    """The keys that the section at `path` may have."""
    section = section_at(path, values, schema)
    return list(section.model_fields) if section else []


def section_at(path: list[str], values: Mapping[str, Any], schema: type[BaseModel]) -> type[BaseModel] | None:
    """The part of the schema that describes `path`; where it depends on `kind`, the one that the values choose."""
    section = schema
    for depth, part in enumerate(path, start=1):
        field = section.model_fields.get(part)
        choices = [branch for branch in _branches(field) if isinstance(branch, type) and issubclass(branch, BaseModel)]
        if not choices:
            return None
        chosen = lookup(values, path[:depth])
        kind = chosen.get("kind") if isinstance(chosen, Mapping) else None
        section = next((choice for choice in choices if _is_kind(choice, kind)), choices[0])
    return section


def lookup(values: Mapping[str, Any], path: Iterable[str]) -> Any:
    """The value at `path`, or None where there is none."""
    at: Any = values
    for part in path:
        at = at.get(part) if isinstance(at, Mapping) else None
    return at


def _branches(field: FieldInfo | None) -> tuple[Any, ...]:
    if field is None:
        return ()
    return get_args(field.annotation) or (field.annotation,)


def _is_kind(section: type[BaseModel], kind: object) -> bool:
    field = section.model_fields.get("kind")
    return field is not None and kind in get_args(field.annotation)


def _of_kind(path: list[str], values: Mapping[str, Any]) -> str:
    """The kind that decides which keys the section at `path` has; empty where it has no kind."""
    kind = lookup(values, [*path, "kind"])
    return f" ({'.'.join([*path, 'kind'])}={kind}; the group sets all keys of its kind)" if kind is not None else ""


def _locate(problem: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[list[str], str, Any]:
    """Key, position in a list and value of a problem, without the names pydantic adds for the branches of a union."""
    path: list[str] = []
    item = ""
    at: Any = values
    for part in problem["loc"]:
        if isinstance(at, Mapping) and part in at:
            path.append(str(part))
            at = at[part]
        elif isinstance(at, list) and isinstance(part, int):
            item += f"[{part}]"
            at = at[part]
    if problem["type"] == "missing":
        path.append(str(problem["loc"][-1]))
    if problem["type"] == "union_tag_invalid":
        path.append(problem["ctx"]["discriminator"].strip("'"))
        at = problem["ctx"]["tag"]
    if problem["type"] == "union_tag_not_found":
        path.append(problem["ctx"]["discriminator"].strip("'"))
        at = None
    return path, item, at


def _allowed(problem: Mapping[str, Any], path: list[str], values: Mapping[str, Any], schema: type[BaseModel]) -> str:
    if problem["type"] in ("model_type", "model_attributes_type"):
        found = lookup(values, path)
        option = (
            f" (the option of a group goes there as GROUP@{'.'.join(path)}={found})" if isinstance(found, str) else ""
        )
        return f"a section with {', '.join(known_keys(path, values, schema))}{option}"
    if problem["type"] == "union_tag_invalid":
        return problem["ctx"]["expected_tags"]
    text = WORDS.get(problem["type"], problem["msg"].removeprefix("Input should be "))
    text = text.format(**problem.get("ctx", {}))
    parent = section_at(path[:-1], values, schema)
    nullable = parent is not None and type(None) in _branches(parent.model_fields.get(path[-1]))
    return f"{text} or null" if nullable else text


def shown(value: Any) -> str:
    """As the command line writes it: null and true, and text in quotes so that 'abc' is seen to be no number."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shortened(repr(value))


def null(value: Any) -> Any:
    """None as the command line writes it, anything else as it is."""
    return "null" if value is None else value


def shortened(text: str) -> str:
    """A value that an error shows: the beginning of a long one."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}... ({len(text):,} characters)"


def nearest(found: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(found.strip("'"), list(names), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""
