"""Looking at a suite: the database of its activations, what is known of features, sites and connections.

`analyze(Looking(...), Wanted(...))` writes what `scae.report.analysis_files` describes, and `Analysis` reads it.
"""

from scae.analysis.looking import Looking
from scae.analysis.text import Text
from scae.analysis.whole import Wanted, analyze
from scae.report.analysis_files import Analysis

__all__ = ["Analysis", "Looking", "Text", "Wanted", "analyze"]
