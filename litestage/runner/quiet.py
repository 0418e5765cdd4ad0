"""Keeps Lightning's banner and its advice out of a user's terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = [f"lightning.{half}{logger}" for half in ("pytorch", "fabric") for logger in ("", ".utilities.rank_zero")]


@contextmanager
def quiet() -> Iterator[None]:
    """Errors only, until the block is left."""
    loggers = [logging.getLogger(name) for name in (*_LOGGERS, "lightning.fabric.utilities.distributed")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
