"""Why tokens differ in bfloat16: how often each of two engines, after the same text, misses what float32 would choose.

Once one token differs, everything behind it does, so a share of differing tokens says little. Here each engine's own
text is read by the same weights in float32, token by token.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from litestage.bench.rivals import Rows


class Judge:
    """The weights of ``model`` in float32, which says what each token of a text should have been."""

    def __init__(self, model: Any) -> None:
        self._model, self._exact = model, copy.deepcopy(model).float()

    def missed(self, prompts: Sequence[Sequence[int]], rows: Rows) -> tuple[int, float]:
        """How many tokens are not float32's first choice, and how far its logit is above theirs at most."""
        logits = _choices(self._exact, prompts, rows)
        tokens = torch.tensor(rows)
        short = logits.amax(dim=-1) - logits.gather(-1, tokens[..., None])[..., 0]
        return int((short > 0).sum()), float(short.max())

    def rounding(self, prompts: Sequence[Sequence[int]], rows: Rows) -> float:
        """How far the bfloat16 model's logits lie from float32's on the same text: the standard deviation."""
        return float((_choices(self._model, prompts, rows) - _choices(self._exact, prompts, rows)).std())


def _choices(model: Any, prompts: Sequence[Sequence[int]], rows: Rows) -> Tensor:
    """Logits [rows, tokens, vocabulary] that the tokens were to be chosen from; all prompts and all rows as long."""
    ids = torch.tensor([[*prompt, *row] for prompt, row in zip(prompts, rows, strict=True)], device=model.device)
    with torch.inference_mode():
        return model(ids, use_cache=False, logits_to_keep=len(rows[0]) + 1).logits[:, :-1].float().cpu()


def differing(ours: Rows, theirs: Rows) -> float:
    """The share of tokens that differ, place by place."""
    pairs = [pair for one, two in zip(ours, theirs, strict=True) for pair in zip(one, two, strict=True)]
    return sum(one != two for one, two in pairs) / len(pairs)
