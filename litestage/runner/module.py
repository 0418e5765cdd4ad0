"""The Lightning module: one prediction step answers one batch of questions with every contestant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning

from litestage.runner.contestant import Contestant
from litestage.stages import Question
from litestage.trace import Trace


class StagedPrediction(lightning.LightningModule):
    """Answers batches of questions.

    With ``timed``, each question is run alone and the contestants take turns question by question, in an order that
    rotates, so that a machine that slows down slows all of them alike. A contestant of another model than the one
    before answers once before the clock: else it alone would find its weights in no cache.
    """

    def __init__(self, contestants: Mapping[str, Contestant], timed: bool) -> None:
        super().__init__()
        self.contestants = dict(contestants)
        self.timed = timed
        self._last: object = None  # the model that was run last
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer questions than ranks

    def on_predict_start(self) -> None:
        """Warms every contestant up: the first question by the clock is not the process's first."""
        if self.timed:
            loader: Any = self.trainer.predict_dataloaders
            for contestant in self.contestants.values():
                contestant.answer([loader.dataset[0]], timed=True)
                self._last = contestant.engine.engine.decoder.body

    def predict_step(self, batch: Sequence[Question], batch_idx: int) -> dict[str, list[Trace]]:
        names = list(self.contestants)
        if not self.timed:
            return {name: self.contestants[name].answer(batch) for name in names}
        traces: dict[str, list[Trace]] = {name: [] for name in names}
        for offset, question in enumerate(batch):
            turn = (batch_idx + offset) % len(names)
            for name in (*names[turn:], *names[:turn]):
                contestant = self.contestants[name]
                if contestant.engine.engine.decoder.body is not self._last:
                    contestant.answer([question], timed=True)
                traces[name] += contestant.answer([question], timed=True)
                self._last = contestant.engine.engine.decoder.body
        return traces

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch  # questions are text; the engine moves token ids itself
