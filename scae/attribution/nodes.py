"""What a circuit consists of: its nodes, as columns that a vector operation can take, and one as a reader sees it.

feature    an active feature of a dictionary at a position: what the pass says is active, whatever its type
token      what the embedding writes at a position
bias       everything at a position that no text decides: the biases and centres of dictionaries that stand upstream
           there, those of the feature itself, and of a position that is not live (a BOS) the model's own outputs,
           which are constant as that position sees no text
error      what the model's module at a position writes and no feature says: its own output less the reconstruction;
           of a module without a dictionary all of it
logit      a next token at the last position
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch

from scae.core.typing import Bool, Float, Int, Tensor

Kind = Literal["feature", "token", "bias", "error", "logit"]
KINDS: tuple[Kind, ...] = ("feature", "token", "bias", "error", "logit")


class Node(NamedTuple):
    """place: the site of a feature, the site or module of an error, empty elsewhere; number: of a feature, or in the
    vocabulary; activation, preactivation: NaN where there is none; plain: the pre-activation that the same feature has
    in the plain pass; constant: the part of the pre-activation that bias nodes give."""

    kind: Kind
    place: str
    number: int
    position: int
    activation: float
    preactivation: float
    plain: float
    constant: float
    probability: float
    predicted: float


@dataclass(frozen=True, eq=False)
class Nodes:
    """kind: index into `KINDS`; place: index into `places`, -1: none; level: an edge leads from a lower level to a
    higher one; the rest as of `Node`."""

    places: tuple[str, ...]
    kind: Int[Tensor, " node"]
    place: Int[Tensor, " node"]
    number: Int[Tensor, " node"]
    position: Int[Tensor, " node"]
    level: Int[Tensor, " node"]
    activation: Float[Tensor, " node"]
    preactivation: Float[Tensor, " node"]
    plain: Float[Tensor, " node"]
    constant: Float[Tensor, " node"]
    probability: Float[Tensor, " node"]
    predicted: Float[Tensor, " node"]

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, index: int) -> Node:
        place = int(self.place[index])
        return Node(
            KINDS[int(self.kind[index])],
            self.places[place] if place >= 0 else "",
            int(self.number[index]),
            int(self.position[index]),
            *(float(getattr(self, name)[index]) for name in Node._fields[4:]),
        )

    def of(self, *kinds: Kind) -> Bool[Tensor, " node"]:
        """Which nodes are of one of these kinds."""
        return torch.isin(self.kind, self.kind.new_tensor([KINDS.index(kind) for kind in kinds]))

    def cpu(self) -> "Nodes":
        return Nodes(self.places, *(getattr(self, field.name).cpu() for field in fields(self)[1:]))

    def kept(self, keep: Bool[Tensor, " node"]) -> "Nodes":
        return Nodes(self.places, *(getattr(self, field.name)[keep] for field in fields(self)[1:]))

    @classmethod
    def joined(cls, places: Sequence[str], parts: Sequence["Nodes"]) -> "Nodes":
        columns = [field.name for field in fields(cls)[1:]]
        return cls(tuple(places), *(torch.cat([getattr(part, name) for part in parts]) for name in columns))

    @classmethod
    def make(
        cls,
        kind: Kind,
        position: Int[Tensor, " node"],
        *,
        level: int,
        like: Tensor,
        place: int | Int[Tensor, " node"] = -1,
        number: int | Int[Tensor, " node"] = -1,
        **columns: Float[Tensor, " node"],
    ) -> "Nodes":
        """Nodes of one kind and level, numbers in the precision of `like`; those not given are NaN, probabilities 0."""

        def whole(value: int | Tensor) -> Tensor:
            return value if isinstance(value, Tensor) else torch.full_like(position, value)

        empty = torch.full_like(position, torch.nan, dtype=like.dtype)
        numbers = {name: columns.get(name, empty) for name in Node._fields[4:]}
        numbers["probability"] = columns.get("probability", torch.zeros_like(empty))
        return cls((), whole(KINDS.index(kind)), whole(place), whole(number), position, whole(level), **numbers)
