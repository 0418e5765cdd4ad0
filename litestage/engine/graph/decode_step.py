"""One decode step, nothing but tensors of fixed place and shape: what :mod:`litestage.engine.graph.runner` repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from litestage.decoder.decoder import Decoder, Path
from litestage.engine.attention import FREE, ForwardContext
from litestage.engine.cache import KVCache
from litestage.engine.graph.compiled import RegionContext, Regions
from litestage.engine.graph.readback import MAX_STEPS, Readback
from litestage.engine.rows import NON_FINITE, Row
from litestage.engine.sampler import Sampler
from litestage.plan import StagePlan
from litestage.plan.exit import Confidence


class Column(NamedTuple):
    """What a token's column goes on from.

    Attributes:
        token, position, branch: of the token to be run.
        slot: of all lanes' slots in a row, where its keys and values go.
        kept: the position to be kept there; ``FREE`` for padding.
        stride: slots to its row's next token.
        left: tokens that the row may still be given; 0 for padding.
    """

    token: int
    position: int
    branch: int
    slot: int
    kept: int
    stride: int
    left: int


@dataclass(frozen=True)
class Ends:
    """What the device can tell a row's end by, besides the tokens that are left.

    Attributes:
        eos: token ids that end a row.
        window: length of the confidence rule's window; 0 without the rule.
        confidences: whether they are kept.
    """

    eos: tuple[int, ...]
    window: int
    confidences: bool

    @classmethod
    def of(cls, row: Row) -> Ends:
        window = row.exit.window if isinstance(row.exit, Confidence) else 0
        return cls(row.eos, window, row.measures_confidence)


class StepState(NamedTuple):
    """What a step goes on from and what it leaves; the places never change.

    Attributes:
        state: by column, see :class:`Column`: [7, columns].
        padding: the same for columns that have ended.
        at: steps since the last entry, [1].
        tokens, confidences: what was written, [most steps, columns].
        window: the confidences that the rule looks at, [length, columns], float64.
        threshold, length: of the rule.
        eos: token ids [any].
        chances: numbers in [0, 1) to draw tokens with, [most steps, columns], float64; None where nothing is drawn.
    """

    state: Tensor
    padding: Tensor
    at: Tensor
    tokens: Tensor
    confidences: Tensor
    window: Tensor
    threshold: Tensor
    length: Tensor
    eos: Tensor
    chances: Tensor | None


class DecodeStep:
    """Runs every column's token, chooses the next, and moves the column on to it unless its row has ended.

    A column is a row's token; a column with no tokens left is padding. One step is good for any rows, thresholds and
    limits: they are entered. :attr:`run` runs it; it may be replaced by a recording.

    Args:
        columns: one for each row that a lane may have, lane by lane.
        seen: the slots of each lane that are read.
        regions: the compiled make of the sub-layers, which ``path`` is then made of; or None.

    Attributes:
        plan: what the path was made from: its tensors stay as long as the step does.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: KVCache,
        columns: int,
        seen: int,
        plan: StagePlan,
        path: Path,
        sampler: Sampler,
        ends: Ends,
        regions: Regions | None = None,
    ) -> None:
        self.plan, self.seen, self.columns = plan, seen, columns
        self._decoder, self._cache, self._path, self._regions = decoder, cache, path, regions
        self._choose, self._ends = None if sampler.greedy else sampler.choose, ends
        self._table = cache.lean.table(seen)  # a recording reads this one, whatever larger one is made later
        self._turns = None if regions is None else regions.turns(self._table)
        self._advance = _advancing(ends)
        if regions is not None:
            self._advance = regions.region((ends.window, ends.confidences), lambda: _advancing(ends))
        self.kept = _state(cache, columns, ends, drawing=not sampler.greedy)
        self.run: Callable[[], None] = self._run

    def enter(self, columns: Sequence[Column], rows: Mapping[int, Row], sampler: Sampler) -> None:
        """Starts anew: every column's token, and by column the rows that are going, with what they draw."""
        kept = self.kept
        _put(columns, kept.state)
        kept.at.zero_()
        if self._ends.window:
            _put(_windows(len(columns), rows, self._ends.window), kept.window)
            rule = next(iter(rows.values())).exit  # all rows have the same
            assert isinstance(rule, Confidence)
            kept.threshold.fill_(rule.threshold)
        if kept.chances is not None:
            most = min(MAX_STEPS, max(row.left for row in rows.values()))
            chances = {column: sampler.chances(row, most) for column, row in rows.items()}
            _put([chances.get(at, [0.0] * most) for at in range(len(columns))], kept.chances[:most])

    def written(self, first: int, count: int) -> Readback:
        """Tokens and confidences that were written in some steps since the entry, on their way to the host."""
        steps = slice(first, first + count)
        return Readback(self.kept.tokens[steps], self.kept.confidences[steps] if self._ends.confidences else None)

    def _run(self) -> None:
        kept, regions, lean = self.kept, self._regions, self._cache.lean
        logits = lean.logits(self._stream()) if regions is None else regions.logits(self._stream())
        drawn = None
        if self._choose is not None and kept.chances is not None:
            drawn = self._choose(logits, kept.chances.index_select(0, kept.at)[0])
        self._advance(logits, drawn, kept)

    def _stream(self) -> Tensor:
        new = self.kept.state[:5]
        if self._turns is None:
            attending = ForwardContext(self._cache, new, self.seen, self.seen)
        else:
            attending = RegionContext(self._cache, new, self.seen, self._turns)
        stream = self._decoder.embed(attending.ids)
        for step in self._path:
            stream = step(stream, attending)
        return stream


def _advancing(ends: Ends) -> Callable[[Tensor, Tensor | None, StepState], None]:
    confident, windowed = ends.confidences, ends.window > 0

    def advance(logits: Tensor, drawn: Tensor | None, kept: StepState) -> None:
        """Writes the tokens that were drawn, else the likeliest, and moves every column on that has not ended."""
        ids, positions, branches, slots, _, stride, left = kept.state.unbind(0)
        top = logits.amax(dim=-1)
        tokens = logits.argmax(dim=-1) if drawn is None else drawn
        tokens = tokens.masked_fill(top.isfinite().logical_not(), NON_FINITE)
        ended = (tokens[:, None] == kept.eos).any(1) | (tokens == NON_FINITE)
        if confident:
            confidences = (top - logits.logsumexp(dim=-1)).exp()
            kept.confidences.index_copy_(0, kept.at, confidences[None])
            if windowed:
                window = torch.cat([kept.window[1:], confidences.double()[None]])
                kept.window.copy_(window)
                # a sum of so few float32 values is exact in float64: the same mean as the host's, to the last bit
                ended = ended | (window.sum(0) / kept.length <= kept.threshold)
        kept.tokens.index_copy_(0, kept.at, tokens[None])
        left = (left - 1).clamp(min=0).masked_fill(ended, 0)
        stays = left == 0
        positions = torch.where(stays, positions, positions + 1)
        slots = torch.where(stays, kept.padding[3], slots + stride)
        places = torch.where(stays, kept.padding[4], positions)
        kept.state.copy_(
            torch.stack([torch.where(stays, ids, tokens), positions, branches, slots, places, stride, left])
        )
        kept.at.add_(1)

    return advance


def _state(cache: KVCache, columns: int, ends: Ends, drawing: bool) -> StepState:
    device, wide = cache.device, torch.float64
    each = columns // len(cache.used)
    padding = [Column(0, 0, 0, (lane + 1) * cache.slots - 1, FREE, 0, 0) for lane in range(len(cache.used))]
    ended = torch.tensor([column for column in padding for _ in range(each)], device=device).T.contiguous()
    return StepState(
        state=ended.clone(),
        padding=ended,
        at=torch.zeros(1, dtype=torch.long, device=device),
        tokens=torch.zeros(MAX_STEPS, columns, dtype=torch.long, device=device),
        confidences=torch.zeros(MAX_STEPS, columns, device=device),
        window=torch.full((ends.window, columns), torch.inf, dtype=wide, device=device),
        threshold=torch.zeros((), dtype=wide, device=device),
        length=torch.full((), float(ends.window), dtype=wide, device=device),
        eos=torch.tensor(ends.eos, device=device),
        chances=torch.zeros(MAX_STEPS, columns, dtype=wide, device=device) if drawing else None,
    )


def _put(by_column: Sequence[Sequence[float]], into: Tensor) -> None:
    """Copies to [any, columns] without waiting for the device."""
    made = torch.tensor(by_column, dtype=into.dtype).T.contiguous()
    into.copy_(made.pin_memory() if into.is_cuda else made, non_blocking=True)


def _windows(columns: int, rows: Mapping[int, Row], window: int) -> list[list[float]]:
    """By column, the confidences that the rule looks at; infinite before the first: a window not full never ends."""
    known = {column: row.confidences[-window:] for column, row in rows.items()}
    return [[torch.inf] * (window - len(known.get(at, ()))) + list(known.get(at, ())) for at in range(columns)]
