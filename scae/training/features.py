"""What training has left of the features: how many have never fired in it, and how many are dead at its end.

With clock_i the tokens since feature i has last fired (`Dictionary.tokens_since_fired`), which goes on from training to
training, and T the text tokens of this one,

    features/<stage>/never_fired/<site>    the share of features with clock_i >= T
    features/<stage>/dead/<site>           the share of features with clock_i >= sae.auxk.dead_after
"""

from scae.suite import Suite


def firing_facts(suite: Suite, stage: str, *, live_tokens: int) -> dict[str, float]:
    """live_tokens: T, on which the suite was trained to what it is."""
    assert suite.auxk is not None
    facts = {}
    for what, limit in (("never_fired", live_tokens), ("dead", suite.auxk.dead_after)):
        for site in suite.sites:
            silent = suite[site].tokens_since_fired >= limit
            facts[f"features/{stage}/{what}/{site}"] = float(silent.double().mean())
    return facts
