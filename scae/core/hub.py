"""The Hugging Face hub, where it cannot be reached: its clients use what is here already, at once.

On their own they try every file again and again, for up to a minute, before they look.
"""

import logging
import os

log = logging.getLogger(__name__)
PATIENCE = 3.0  # seconds that the hub has to answer


def use_what_is_here_if_unreachable() -> None:
    """Ask the hub once; where nothing answers, this process and those it starts stay offline, and the log says so."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        log.warning("%s cannot be reached (%s): only what is here already is used", constants.ENDPOINT, reason)
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"
