"""The one way questions are run: profile, search, compare and lm-eval all come through here."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from litestage.progress import bar
from litestage.runner.contestant import Contestant
from litestage.stages import Question
from litestage.trace import Trace

if TYPE_CHECKING:
    from litestage.runner.journal import Journal


def run(
    questions: Sequence[Question],
    contestants: Mapping[str, Contestant],
    *,
    timed: bool = False,
    batch_size: int = 64,
    journal: Path | None = None,
    progress: str | None = None,
) -> dict[str, list[Trace]]:
    """Answers every question with every contestant, through Lightning's ``Trainer.predict``.

    Args:
        timed: each question alone, by the clock, contestants interleaved; else ``batch_size`` together.
        journal: folder for the journal. A run that was killed and is started again with the same folder takes up
            where it was, its measured times included; a finished run leaves no journal.
        progress: label of a progress bar, or None for none.

    Returns:
        Traces per contestant, in the order of ``questions``.
    """
    from litestage.runner.journal import Journal, journal_name

    writer = Journal(journal / journal_name(questions, contestants, timed) if journal else None)
    todo = [question for question in questions if set(writer.finished.get(question.id, ())) != set(contestants)]
    if todo:
        _predict(todo, contestants, timed, batch_size, writer, progress)
    writer.close()
    return {name: [writer.finished[question.id][name] for question in questions] for name in contestants}


def _predict(
    questions: Sequence[Question],
    contestants: Mapping[str, Contestant],
    timed: bool,
    batch_size: int,
    writer: Journal,
    progress: str | None,
) -> None:
    import lightning
    from torch.utils.data import DataLoader

    from litestage.runner.module import Progress, StagedPrediction

    ordered = (
        questions
        if timed
        else sorted(questions, key=lambda question: len(question.text) + sum(map(len, question.options)))
    )
    loader: DataLoader[Question] = DataLoader(
        list(ordered),  # type: ignore[arg-type]
        batch_size=1 if timed else batch_size,
        collate_fn=list,
    )
    device = next(iter(contestants.values())).engine.engine.decoder.device
    with _quiet(), bar(progress, len(questions)) if progress else nullcontext(lambda steps: None) as advance:
        trainer = lightning.Trainer(
            accelerator=device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            callbacks=[writer, Progress(advance)],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.predict(StagedPrediction(contestants, timed), loader, return_predictions=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Lightning's banner and its advice on data-loader workers out of a user's terminal."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")]
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
