"""Three stages one after another at menagerie's lengths: ours beside a ``generate`` chain and llama.cpp, in turns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from litestage.bench.llama import Llama, missing, write_gguf
from litestage.bench.rivals import Rows
from litestage.bench.rounding import Judge, differing
from litestage.bench.row import Row, compared, take_turns
from litestage.bench.shape import Shape, decode_row, prompts
from litestage.errors import LiteStageError

STAGES = ((26, 0, 1, 7), (39, 37, 4, 13), (102, 0, 1, 8))
"""Of each stage: prompt tokens, how many of them the rows share, rows, new tokens; menagerie's medians."""
LLAMA = "llama.cpp, options as parallel sequences"
TEXTS = (32, 8, 16)
"""Prompt tokens, rows and new tokens of the texts that are looked at for rounding."""
CLOSE = 0.2
"""Of two runtimes of one bfloat16 model: their logits' largest difference, in standard deviations of the logits."""


Generate = Callable[[list[tuple[int, ...]], int], Rows]


def chain_rows(shape: Shape, repeats: int) -> list[Row]:
    """The three stages beside a ``generate`` chain, and beside llama.cpp where it is installed."""
    ours, theirs = _answer(_ours(shape)), _answer(shape.theirs)
    note = f"{differing(ours, theirs):.0%} of tokens differ; {why_tokens_differ(shape)}"
    rows = [_three_stages(shape, "generate chain, options batched", shape.theirs, repeats, 1.5, note)]
    why_not = missing()
    if why_not is None:
        try:
            return rows + llama_rows(shape, repeats)
        except LiteStageError as error:
            why_not = str(error)
    return [*rows, Row(shape.name, "three stages", LLAMA, bar=1.0, note=f"not measured: {why_not}")]


def llama_rows(shape: Shape, repeats: int) -> list[Row]:
    """The three stages and a decode step of one row and of four, beside llama.cpp with the same weights.

    Raises:
        LiteStageError: llama.cpp failed.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "shape.gguf"
        write_gguf(shape.rival, path)
        with closing(Llama(path, shape.rival.config.vocab_size)) as llama:
            rows = [_three_stages(shape, LLAMA, llama.generate, repeats, 1.0, same_model(shape, llama))]
            rows += [decode_row(shape, count, repeats, "llama.cpp", llama.generate) for count in (1, 4)]
    return rows


def _three_stages(shape: Shape, against: str, rival: Generate, repeats: int, bar: float, note: str) -> Row:
    runs = {"ours": lambda: _answer(_ours(shape)), "theirs": lambda: _answer(rival)}
    ours, theirs = take_turns(runs, repeats).values()
    return compared(shape.name, "three stages", against, ours, theirs, bar, note)


def _ours(shape: Shape) -> Generate:
    return lambda asked, limit: shape.ours(asked, limit)[1]


def _answer(generate: Generate) -> Rows:
    return [row for length, shared, rows, limit in STAGES for row in generate(prompts(length, shared, rows), limit)]


def same_model(shape: Shape, llama: Llama) -> str:
    """How close llama.cpp's logits are to transformers'; refuses to compare two models that are not the same."""
    import torch

    asked = prompts(39, 37, 4)
    with torch.inference_mode():
        exact = shape.rival(torch.tensor(asked)).logits[:, -1].float().numpy()
    apart = float(np.abs(np.stack(llama.prefill(asked)) - exact).max() / exact.std())
    if apart > CLOSE:
        raise RuntimeError(f"llama.cpp's logits are {apart:.2f} standard deviations from transformers': another model")
    return f"the same model: logits of 4 prompts at most {apart:.1%} of their standard deviation from transformers'"


def why_tokens_differ(shape: Shape) -> str:
    """What float32 makes of both texts, and how often generate differs from itself; see :mod:`.rounding`."""
    length, count, limit = TEXTS
    asked = prompts(length, 0, count)
    ours, theirs = shape.ours(asked, limit)[1], shape.theirs(asked, limit)
    alone = [row for prompt in asked[: count // 2] for row in shape.theirs([prompt], limit)]
    changed = round(differing(alone, theirs[: count // 2]) * len(alone) * limit)
    judge = Judge(shape.rival)
    (of_ours, short), (of_theirs, their_short) = judge.missed(asked, ours), judge.missed(asked, theirs)
    return (
        f"after the same text float32 chooses otherwise for {of_ours} of {count * limit} of ours and {of_theirs} of "
        f"generate's, by logits at most {max(short, their_short):.3f} apart (bfloat16 moves them by "
        f"{judge.rounding(asked, theirs):.3f}); alone instead of {count} to a batch, generate changes {changed} of "
        f"{len(alone) * limit} of its own"
    )
