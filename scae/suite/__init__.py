"""The dictionaries by site and the passes over them: plain, spliced, dense, pruned."""

from scae.suite.assembly import Mode
from scae.suite.output import SuiteOutput
from scae.suite.reading import Reading
from scae.suite.suite import Suite, choose_sites
from scae.suite.virtual_weights import Input

__all__ = ["Input", "Mode", "Reading", "Suite", "SuiteOutput", "choose_sites"]
