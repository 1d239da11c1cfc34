"""Windows kept aside for validation: whole batches from the end, none of them left to draw."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scae.config import ConfigError
from scae.data import TokenWindows, WindowModule, kept_aside

CONTEXT = 6


def windows(count: int, *, starts: bool = False) -> TokenWindows:
    tokens = torch.arange(count * CONTEXT, dtype=torch.int32).view(count, CONTEXT)
    lengths = CONTEXT - torch.arange(count, dtype=torch.int32) % 3
    return TokenWindows(tokens, lengths, bos=True, separator=7, starts=tokens % 5 == 0 if starts else None)


@given(count=st.integers(1, 60), batch_size=st.integers(1, 9), tokens=st.integers(1, 500))
def test_every_window_is_on_one_side(count: int, batch_size: int, tokens: int) -> None:
    whole = windows(count, starts=True)
    wanted = max(1, tokens // (CONTEXT * batch_size)) * batch_size
    if count - wanted < batch_size:
        with pytest.raises(ConfigError, match=rf"^x\.tokens={tokens}: {wanted:,} of {count:,} "):
            kept_aside(whole, tokens=tokens, batch_size=batch_size, key="x.tokens")
        return
    drawn, aside = kept_aside(whole, tokens=tokens, batch_size=batch_size, key="x.tokens")
    assert len(aside) == wanted
    for name in ("tokens", "lengths", "starts"):
        assert torch.equal(torch.cat([getattr(drawn, name), getattr(aside, name)]), getattr(whole, name))
    assert (drawn.bos, drawn.separator) == (aside.bos, aside.separator) == (True, 7)


def test_the_most_that_is_allowed_is_allowed() -> None:
    whole = windows(23)
    with pytest.raises(ConfigError, match=r"allowed: at most 96$"):
        kept_aside(whole, tokens=1000, batch_size=4, key="x")
    drawn, aside = kept_aside(whole, tokens=96, batch_size=4, key="x")
    assert (len(drawn), len(aside)) == (7, 16)
    with pytest.raises(ConfigError, match="a longer text or a smaller batch_size"):
        kept_aside(whole, tokens=1, batch_size=12, key="x")


def test_text_tokens_are_counted_as_they_are_drawn() -> None:
    module = WindowModule(train=windows(10), batch_size=4, steps=9, seed=3)
    counts = [int(module.batch(step, rank=0, world_size=1).live.sum()) for step in range(9)]
    assert [module.live_tokens(steps) for steps in range(10)] == [sum(counts[:steps]) for steps in range(10)]
