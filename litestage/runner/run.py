"""The one way questions are run: profile, search, compare and lm-eval all come through here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from litestage.progress import bar
from litestage.ranks import cluster, from_rank_zero, here, in_step, share, union
from litestage.runner.contestant import Contestant
from litestage.runner.quiet import quiet
from litestage.stages import Question
from litestage.store import ResultStore
from litestage.trace import Trace

if TYPE_CHECKING:
    from litestage.runner.journal import Journal


def run(
    questions: Sequence[Question],
    contestants: Mapping[str, Contestant],
    *,
    timed: bool = False,
    batch_size: int = 64,
    journal: ResultStore | None = None,
    progress: str | None = None,
) -> dict[str, list[Trace]]:
    """Answers every question with every contestant, through Lightning's ``Trainer.predict``.

    With many ranks (:mod:`litestage.ranks`) each answers its share, and all get all traces.

    Args:
        timed: each question alone, by the clock, contestants interleaved; else ``batch_size`` together.
        journal: the store that keeps what is finished. A run that was killed and is started again with the same store
            takes up where it was, its measured times included; a finished run leaves nothing there.
        progress: label of a progress bar, or None for none.

    Returns:
        Traces per contestant, in the order of ``questions``.
    """
    from litestage.runner.journal import Journal, run_name
    from litestage.store.journal import RunJournal

    keeps = journal is not None
    with in_step():
        names = from_rank_zero(lambda: (run_name(questions, contestants, timed), uuid4().hex) if keeps else None)
        kept = RunJournal(journal, *names) if journal is not None and names else None
        writer = Journal(contestants, kept)
        finished = union(writer.finished) if kept else {}
        todo = [q for q in questions if any((q.id, name) not in finished for name in contestants)]
        if todo:
            _predict(todo, contestants, timed, batch_size, writer, progress)
            finished |= union(writer.finished)
        if kept is not None:
            kept.close()
        return {name: [finished[question.id, name] for question in questions] for name in contestants}


def _predict(
    questions: Sequence[Question],
    contestants: Mapping[str, Contestant],
    timed: bool,
    batch_size: int,
    writer: Journal,
    progress: str | None,
) -> None:
    import lightning
    from lightning.pytorch.callbacks import LambdaCallback
    from torch.utils.data import DataLoader

    from litestage.runner.module import StagedPrediction
    from litestage.runner.termination import PlainTermination

    def size(question: Question) -> int:
        return len(question.text) + sum(map(len, question.options))

    ordered = questions if timed else sorted(questions, key=size)
    # By the clock on rank 0 alone: ranks that run beside it would share its cores or its memory bus, and be timed too.
    own = share(ordered, rank_zero_only=timed)
    loader: DataLoader[Question] = DataLoader(
        own,  # type: ignore[arg-type]
        batch_size=1 if timed else max(1, min(batch_size, len(own))),
        collate_fn=list,
    )
    device = next(iter(contestants.values())).engine.engine.decoder.device
    with quiet(), bar(progress, len(own)) if progress else nullcontext(lambda steps: None) as advance:
        moves = LambdaCallback(on_predict_batch_end=lambda trainer, module, traces, batch, *_: advance(len(batch)))
        trainer = lightning.Trainer(
            **_devices(device),
            callbacks=[writer, moves, PlainTermination()],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        try:
            trainer.predict(StagedPrediction(contestants, timed), loader, return_predictions=False)
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # which Lightning turns into an exit without a word
                raise stop.__context__ from None
            raise


def _devices(device: Any) -> dict[str, Any]:
    """Lightning's side of where it runs: this process on its device, or one of the ranks that were launched."""
    if here().world_size == 1:
        return {"accelerator": device.type, "devices": [device.index or 0] if device.type == "cuda" else 1}
    from lightning.pytorch.strategies import DDPStrategy

    return {
        "accelerator": "cpu",  # the batches are text; the GPU is the engine's
        "devices": here().devices,
        "num_nodes": here().num_nodes,
        "strategy": DDPStrategy(process_group_backend="gloo"),
        "plugins": cluster(),
        "use_distributed_sampler": False,  # it wants a question for every rank; they are shared out already
    }
