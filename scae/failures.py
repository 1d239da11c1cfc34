"""What ends a command with one message and no traceback, although the configuration is right."""


class NonFiniteError(ArithmeticError):
    """Training met a NaN or an infinity: says stage, step, place and batch, and what is left of the work."""
