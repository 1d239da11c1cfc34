"""Between Hydra and the experiment: the command, its errors, and the record of every job; none of it imports torch."""

from scae.command.main import command
from scae.command.values import values

__all__ = ["command", "values"]
