"""One decode step that is nothing but tensors of fixed place and shape; what :mod:`litestage.engine.static` repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from litestage.decoder.decoder import Decoder, Path
from litestage.decoder.lean import LeanDecoder
from litestage.engine.lanes import FREE, Lanes, Pass
from litestage.engine.rows import Row, Sampler
from litestage.plan import ExitRule, StagePlan

COLUMNS = 7
"""Of a token's column: id, position, branch, slot, position to be kept there, slots to the next one, tokens left."""

Column = tuple[int, int, int, int, int, int, int]


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
        window = row.exit.window if row.exit is not None and row.exit.rule == "confidence" else 0
        return cls(row.eos, window, row.measures_confidence)


class StaticStep:
    """Runs every column's token, chooses the next, and moves the column on to it unless its row has ended.

    A column is a row's token; a column with no tokens left is padding. One step is good for any rows, thresholds and
    limits: they are entered. :attr:`run` runs it; it may be replaced by a recording.

    Args:
        columns: one for each row that a lane may have, lane by lane.
        seen: the slots of each lane that are read.
        most: the most steps between two entries.

    Attributes:
        plan: what the path was made from: its tensors stay as long as the step does.
    """

    def __init__(
        self,
        decoder: Decoder,
        lean: LeanDecoder,
        lanes: Lanes,
        columns: int,
        seen: int,
        plan: StagePlan,
        path: Path,
        sampler: Sampler,
        ends: Ends,
        most: int,
    ) -> None:
        device = lanes.device
        self._decoder, self._lean, self._lanes, self._seen, self._path = decoder, lean, lanes, seen, path
        self.plan, self._choose, self._ends = plan, sampler.choose, ends
        self._table = lean.table(seen)  # a recording reads this one, whatever larger one is made later
        padding = [(0, 0, 0, (lane + 1) * lanes.slots - 1, FREE, 0, 0) for lane in range(len(lanes.used))]
        each = columns // len(padding)
        self._padding = torch.tensor([column for column in padding for _ in range(each)], device=device).T.contiguous()
        self.state = self._padding.clone()
        self._eos = torch.tensor(ends.eos, device=device)
        self._window = torch.full((ends.window, columns), torch.inf, dtype=torch.float64, device=device)
        self._length = torch.tensor(float(ends.window), dtype=torch.float64, device=device)
        self._threshold = torch.zeros((), dtype=torch.float64, device=device)
        self._at = torch.zeros(1, dtype=torch.long, device=device)
        self._tokens = torch.zeros(most, columns, dtype=torch.long, device=device)
        self._confidences = torch.zeros(most, columns, device=device)
        vocabulary = decoder.head.out_features
        self._noise = None if sampler.greedy else torch.ones(most, columns, vocabulary, device=device)
        self.run: Callable[[], None] = self._run

    def tensors(self) -> list[Tensor]:
        """What is read and written; their places never change."""
        kept = [self.state, self._window, self._threshold, self._at, self._tokens, self._confidences, self._padding]
        return kept if self._noise is None else [*kept, self._noise]

    def enter(self, columns: Sequence[Column], rows: Mapping[int, Row], sampler: Sampler, steps: int) -> None:
        """Starts anew: every column's token, and by column the rows that are going. Draws their noise for ``steps``."""
        self.state.copy_(torch.tensor(columns).T)
        self._at.zero_()
        if self._ends.window:
            self._window.copy_(torch.tensor(_windows(len(columns), rows, self._ends.window), dtype=torch.float64).T)
            self._threshold.fill_(next(_rule(row) for row in rows.values()).threshold)
        if self._noise is not None:
            sampler.noise(rows, self._noise, steps)

    def written(self, steps: int) -> tuple[list[list[int]], list[list[float | None]]]:
        """Tokens and confidences (None where none are kept) of the last steps, by column; waits for the device."""
        tokens = self._tokens[:steps].T.tolist()
        return tokens, self._confidences[:steps].T.tolist() if self._ends.confidences else [[None] * steps] * len(
            tokens
        )

    def _run(self) -> None:
        ids, positions, _, slots, kept, stride, left = self.state.unbind(0)
        logits = self._logits()
        tokens = self._choose(logits, None if self._noise is None else self._noise.index_select(0, self._at)[0])
        ended = (tokens[:, None] == self._eos).any(1)
        if self._ends.confidences:
            confidences = (logits.amax(dim=-1) - logits.logsumexp(dim=-1)).exp()
            self._confidences.index_copy_(0, self._at, confidences[None])
            if self._ends.window:
                # a sum of so few float32 values is exact in float64: the same mean as the host's, to the last bit
                self._window.copy_(torch.cat([self._window[1:], confidences.double()[None]]))
                ended |= self._window.sum(0) / self._length <= self._threshold
        self._tokens.index_copy_(0, self._at, tokens[None])
        self._at.add_(1)
        left.sub_(1).clamp_(min=0).masked_fill_(ended, 0)
        stays = left == 0
        ids.copy_(torch.where(stays, ids, tokens))
        positions.add_(~stays)
        slots.copy_(torch.where(stays, self._padding[3], slots + stride))
        kept.copy_(torch.where(stays, self._padding[4], positions))

    def _logits(self) -> Tensor:
        attending = Pass(self._lanes, self.state[:5], self._seen, self._seen)
        stream = self._decoder.embed(attending.ids)
        for step in self._path:
            stream = step(stream, attending)  # type: ignore[arg-type]
        return self._lean.logits(stream)


def _rule(row: Row) -> ExitRule:
    assert row.exit is not None
    return row.exit


def _windows(columns: int, rows: Mapping[int, Row], window: int) -> list[list[float]]:
    """By column, the confidences that the rule looks at; infinite before the first: a window not full never ends."""
    known = {column: row.confidences[-window:] for column, row in rows.items()}
    return [[torch.inf] * (window - len(known.get(at, ()))) + list(known.get(at, ())) for at in range(columns)]
