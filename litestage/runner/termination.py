"""What SIGTERM does while Lightning runs."""

from __future__ import annotations

import signal
import threading
from typing import Any

import lightning


class PlainTermination(lightning.Callback):
    """Lets SIGTERM do what it did before the run.

    Lightning's own handler waits for the next training step, and until then for every other rank; then it ends the
    process with exit code 0, as if all had been done.
    """

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def on_predict_start(self, trainer: Any, module: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.before)
            if trainer.received_sigterm:  # since Lightning put its handler there
                signal.raise_signal(signal.SIGTERM)

    on_train_start = on_predict_start
