"""The Hugging Face hub, where it answers; where it does not, what its client has kept, and no waiting.

Its client asks a hub that refuses again and again for half a minute, and one that takes a connection and says nothing
for as long as it likes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_S = 10.0
"""How long the hub may take to answer anything at all."""


@contextmanager
def hub() -> Iterator[None]:
    """Where the hub is used. If it does not answer, its client is offline inside: only what it has kept is found."""
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _answers(endpoint: str) -> bool:
    """Whether anything comes back, an error too. In a thread, since a name may take minutes to look up."""
    from huggingface_hub import get_session

    came = threading.Event()

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=PATIENCE_S)
        except Exception:  # of whichever library the client stands on
            return
        came.set()

    asking = threading.Thread(target=ask, daemon=True, name="hub")
    asking.start()
    asking.join(PATIENCE_S)
    return came.is_set()
