"""Search by verification: a neighbouring plan's output is a draft, checked in one parallel pass under this plan.

Neighbouring candidates of a search mostly write the same text. The longest prefix of the draft on which this plan's
own greedy choice agrees is accepted, with this plan's confidences; decoding goes on from there. The result is exactly
what plain decoding would have written, for one pass instead of one step per token where nothing changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from litestage.engine.prefix import padded
from litestage.engine.rows import Row, Sampler

if TYPE_CHECKING:
    from litestage.decoder.decoder import Path
    from litestage.engine.cache import KVCache
    from litestage.engine.plain import PlainPath


def verify(plain: PlainPath, rows: Sequence[Row], cache: KVCache, path: Path, sampler: Sampler) -> None:
    """Takes every row, whose first token is chosen but not yet run, as far as its draft agrees.

    Afterwards each going row's last token is again chosen but not yet run, and the cache holds just what precedes it.
    """
    fed = [agreeing_draft(row) for row in rows]
    starts = [row.length - 1 for row in rows]
    ids, positions, valid = padded(fed, starts, plain.decoder.device)
    logits = plain.decoder.logits(plain.forward(ids, positions, cache, path, valid))
    following = list(range(len(rows)))
    for step in range(logits.shape[1]):
        following = [
            index
            for index in following
            if rows[index].stop is None and step < len(fed[index]) and rows[index].last == fed[index][step]
        ]
        if not following:
            break
        sampler.advance([rows[index] for index in following], logits[following, step])
    cache.forget(torch.tensor([row.length - 1 for row in rows], device=plain.decoder.device))


def agreeing_draft(row: Row) -> list[int]:
    """The tokens to run: the row's last, and what the draft says after it if they agree. Its end need not be run."""
    draft = row.request.draft
    return list(draft[:-1]) if len(draft) > 1 and draft[0] == row.last and row.stop is None else [row.last]
