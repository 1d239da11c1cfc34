"""What of a section decides the result, and so names what is made from it.

An artifact is named by `active(section)`: the plain values without those that nothing reads. Each key says beside its
type what becomes of it there; a key that says nothing always counts.

    knee: Annotated[Rate, ReadIf(kind="huber")]         another key of its section decides whether anything reads it
    weight: Annotated[Weight, SWITCH]                   0 or null switches the whole section off, with all its keys
    max_tokens: Annotated[Positive | None, Neutral(None)]   at this value all is as if the key were not there
    chunk_mb: Annotated[Positive, UNNAMED]              for speed, memory or the log: no result depends on it
    path: Annotated[Text, BY_CONTENT]                   whoever names adds a hash of what lies there

**A key that is added to a section renames every artifact made from that section**, and so throws away what users have
computed, unless it says one of these. So declare for a new key the neutral value, the one with which the code does what
it did before, and let `conf/` begin with it where results need not change; where no value is neutral, put the key in a
section of its own with a switch that `conf/` leaves off.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

from scae.config.section import Section

Marker = TypeVar("Marker")


class ReadIf:
    """The key is read only where other keys of its section, if they are read themselves, have these values.

    `ReadIf(method=("contribution", "random"), scope="joint")`: one of some, and another one.
    """

    def __init__(self, **needed: Any) -> None:
        self.needed = {key: value if isinstance(value, tuple) else (value,) for key, value in needed.items()}


@dataclass(frozen=True)
class Neutral:
    """At this value the key changes nothing."""

    value: Any


@dataclass(frozen=True)
class Switch:
    """At 0 or null the key switches its section off."""


@dataclass(frozen=True)
class Unnamed:
    """The key is in no name."""

    why: str


SWITCH = Switch()
UNNAMED = Unnamed("no result depends on it")
BY_CONTENT = Unnamed("what lies there is known by its content")


def active(section: Section) -> dict[str, Any]:
    """The plain values that decide what is made from a section; those of a section that is off are none."""
    if is_off(section):
        return {}
    found = {}
    for key, value in section.model_dump(mode="json").items():
        if not _is_read(section, key) or declared(section, key, Unnamed):
            continue
        inner = getattr(section, key)
        if isinstance(inner, Section):
            if decisive := active(inner):
                found[key] = decisive
        elif Neutral(inner) not in declared(section, key, Neutral):
            found[key] = value
    return found


def is_off(section: Section) -> bool:
    """Whether a switch among its keys is off; a section without one is always on."""
    switches = (key for key in type(section).model_fields if declared(section, key, Switch))
    return any(not getattr(section, key) for key in switches)


def declared(section: Section | type[Section], key: str, marker: type[Marker]) -> list[Marker]:
    """The declarations of one sort beside a key."""
    schema = section if isinstance(section, type) else type(section)
    return [one for one in schema.model_fields[key].metadata if isinstance(one, marker)]


def _is_read(section: Section, key: str) -> bool:
    return all(
        _is_read(section, other) and getattr(section, other) in values
        for condition in declared(section, key, ReadIf)
        for other, values in condition.needed.items()
    )
