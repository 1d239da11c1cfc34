"""The same function in other units: what a dictionary is on the stream itself, and how one of the stream enters a unit.

With centre c and size s of a unit, c' and s' of another (`scae.dictionaries.unit`), read and written:

    pre  = W_enc ((x - c) / s - b_sub) + b_enc          b_sub: b_dec of an autoencoder, 0 of a transcoder
    yhat = (f W_dec + b_dec) s + c

    W_enc' = W_enc s' / s                               codes are equal, and so is what is written
    W_dec' = W_dec s / s'
    b_dec' = (c + s b_dec - c') / s'
    b_enc' = b_enc + W_enc ((c' - c) / s - b_sub) + W_enc' b_sub'

In the unit of the stream itself (c' = 0, s' = 1) this is what other libraries store. It is computed in float64.
"""

import copy

import torch

from scae.dictionaries.dictionary import Dictionary
from scae.dictionaries.unit import Unit


@torch.no_grad()
def in_units(given: Dictionary, reads: Unit, writes: Unit) -> Dictionary:
    """What `given` computes, by a dictionary that reads and writes in these units; raises ValueError where a token has
    a unit of its own, or where the encoder is not linear."""
    _demand_rows(given)
    if given.shape.further or given.skip is not None:
        what = "to several MLPs" if given.shape.further else "a linear map beside its features"
        raise ValueError(f"it writes {what}: no other unit, and no other format, has that")
    own, made = given, copy.deepcopy(given)
    W_enc, b_enc, W_dec, b_dec = (
        each.double() for each in (own.encoder.W, own.encoder.b, own.decoder.W, own.decoder.b)
    )
    old_in, new_in, old_out, new_out = (unit.fixed.double() for unit in (own.reads, reads, own.writes, writes))
    made.encoder.W.copy_(W_enc * (new_in / old_in))
    made.decoder.W.copy_(W_dec * (old_out / new_out))
    biases = (own.writes.centre + old_out * b_dec - writes.centre) / new_out
    made.decoder.b.copy_(biases)
    inwards = (reads.centre.double() - own.reads.centre) / old_in
    if not own.transcoder:
        inwards = inwards - b_dec + biases * (new_in / old_in)
    made.encoder.b.copy_(b_enc + W_enc @ inwards)
    made.reads.load_state_dict(reads.state_dict())
    made.writes.load_state_dict(writes.state_dict())
    return made


def _demand_rows(given: Dictionary) -> None:
    """Raises ValueError where a feature has no row of one direction."""
    try:
        _ = given.encoder.rows
    except ValueError as error:
        more = "its encoder is more than one row a feature: no other unit, and no other format, has it"
        raise ValueError(more) from error


def on_the_stream(given: Dictionary) -> Dictionary:
    """What `given` computes, by a dictionary without units."""
    return in_units(given, *(_none(unit) for unit in (given.reads, given.writes)))


def _none(unit: Unit) -> Unit:
    return Unit(len(unit.centre)).to(unit.centre)


@torch.no_grad()
def with_rows_of_norm_one(given: Dictionary) -> Dictionary:
    """What `given` writes, by decoder rows of norm 1: each activation takes over what its row loses. Raises ValueError
    where other features would be the largest of a token."""
    norm = given.decoder.norms()
    norm = torch.where(norm > 0, norm, torch.ones_like(norm))
    if bool(((norm - 1).abs() < 1e-5).all()):
        return given
    _demand_rows(given)
    made = copy.deepcopy(given)
    made.activation.follow(given.activation.rule().scaled(norm))
    made.encoder.W.mul_(norm[:, None])
    made.encoder.b.mul_(norm)
    made.decoder.divide(norm)
    made.ceiling.mul_(norm)
    return made


@torch.no_grad()
def begin_as(own: Dictionary, given: Dictionary) -> None:
    """Let `own`, which is like `given`, begin as that is, in its units; ceilings are learned anew."""
    own.encoder.begin_as(given.encoder)
    for part in ("decoder", "activation", "reads", "writes"):
        getattr(own, part).load_state_dict(getattr(given, part).state_dict())
    if own.skip is not None and given.skip is not None:
        own.skip.load_state_dict(given.skip.state_dict())
    own.tokens_since_fired.copy_(given.tokens_since_fired)


def refuse_unlike(own: Dictionary, given: Dictionary, name: str) -> None:
    """Raises ValueError where `given`, which is called by this name, has another type, shape or sort of unit."""
    ours, theirs = _kind(own), _kind(given)
    if ours != theirs:
        raise ValueError(f"{name} is {theirs}; needed: {ours}")
    if given.skip is not None and own.skip is None:
        raise ValueError(f"{name} has a skip; needed: sae.skip=true")


def _kind(one: Dictionary) -> str:
    shape, type_ = one.shape, one.spec["type"]
    sort = "a transcoder" if shape.transcoder else "an autoencoder"
    unit = "each token" if one.reads.by_token else "all tokens"
    return (
        f"{sort} of type {type_} with {shape.n_features} features, {shape.d_in} numbers read, {shape.d_out} written, "
        f"in the unit of {unit}"
    )
