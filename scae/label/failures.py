"""What ends the command with one line."""


class LabelError(RuntimeError):
    """Nothing can be labelled, or not go on: says what is wrong, where, and what is allowed or to be done."""


def one_line(text: str, longest: int) -> str:
    """Text of somebody else, for a terminal or a label: no control characters, no line breaks, not too long."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return plain if len(plain) <= longest else plain[: longest - 1].rstrip() + "…"
