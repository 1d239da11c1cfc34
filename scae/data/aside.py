"""The end of the training text, kept aside: a training that is validated draws none of it.

The windows are in the order of the documents, so at most one document lies on both sides. Held-out text is no choice
for this: what a suite is chosen by, it must not be judged on.
"""

from dataclasses import replace

from scae.config import ConfigError
from scae.data.windows import TokenWindows


def count_aside(*, tokens: int, context: int, batch_size: int) -> int:
    """The windows in whole batches of about `tokens` tokens, padding included, at least one batch."""
    return max(1, tokens // (context * batch_size)) * batch_size


def kept_aside(windows: TokenWindows, *, tokens: int, batch_size: int, key: str) -> tuple[TokenWindows, TokenWindows]:
    """What may be drawn, and the last windows, as many as `count_aside` says.

    key: of the configuration, for an error. Raises ConfigError where less than one batch would be left to draw.
    """
    count = count_aside(tokens=tokens, context=windows.context, batch_size=batch_size)
    left = len(windows) - count
    if left < batch_size:
        most = (len(windows) // batch_size - 1) * batch_size * windows.context
        raise ConfigError(
            f"{key}={tokens}: {count:,} of {len(windows):,} training windows would be kept aside, in batches of "
            f"{batch_size}; "
            + (f"allowed: at most {most}" if most > 0 else "needed: a longer text or a smaller batch_size")
        )
    return _part(windows, slice(0, left)), _part(windows, slice(left, len(windows)))


def _part(windows: TokenWindows, which: slice) -> TokenWindows:
    starts = None if windows.starts is None else windows.starts[which]
    return replace(windows, tokens=windows.tokens[which], lengths=windows.lengths[which], starts=starts)
