"""Activations that are searched for, for one target after another, over a dictionary that stays as it is.

    f = argmin ||v - f W||^2        f >= 0, at most k of its numbers above 0

An encoder guesses f from what it reads in one step; these methods look at the decoder rows W and at the error, again
and again. What all of them share is in `supports`; a method is a file, and a line of `METHODS`.
"""

from scae.dictionaries.pursuit.pursue import METHODS, pursue, refine, search

__all__ = ["METHODS", "pursue", "refine", "search"]
