"""The dictionaries by site and the passes over them: plain, spliced, dense, pruned."""

from scae.suite.output import SuiteOutput
from scae.suite.suite import Mode, Suite, choose_sites
from scae.suite.wiring import Input, Wiring

__all__ = ["Input", "Mode", "Suite", "SuiteOutput", "Wiring", "choose_sites"]
