"""The runner: forward passes over the KV cache, in three operations: prefill, decode and verify.

Each takes the rows of a :class:`RunningBatch` on by the tokens that it computes. :class:`HostRunner` writes its passes
out sub-layer by sub-layer, on any device; :class:`litestage.engine.graph.runner.GraphRunner` repeats its decode steps.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from litestage.decoder import native
from litestage.decoder.decoder import Decoder, Path, Step
from litestage.decoder.lean import LeanDecoder
from litestage.decoder.work import Work
from litestage.engine.attention import SHARED, ForwardContext
from litestage.engine.cache import KVCache, Token
from litestage.engine.layer_schedule import LayerSchedule
from litestage.engine.prompt_tree import PromptTree
from litestage.engine.rows import Row
from litestage.engine.sampler import Sampler
from litestage.plan import SkipSet, StagePlan
from litestage.plan.skip import SubLayerName
from litestage.plan.stage import CHANGED


@dataclass
class RunningBatch:
    """Rows in flight: where their keys and values are, and how their next tokens are computed and chosen.

    Attributes:
        cache: the KV cache.
        trees: by lane, the prompt tree that it holds, or None.
        widest: rows that a lane has at most.
        work: what was forwarded for them.
    """

    cache: KVCache
    trees: list[PromptTree | None]
    widest: int
    layers: LayerSchedule
    sampler: Sampler
    work: Work = field(default_factory=Work)

    @property
    def going(self) -> dict[int, list[Row]]:
        """By lane, the rows whose next token is to be computed."""
        return {lane: tree.going if tree is not None else [] for lane, tree in enumerate(self.trees)}


class HostRunner:
    """Runs the lean sub-layers one after another, and a decode step as one pass.

    Attributes:
        lean: the decoder's sub-layers in lean form.
        side_by_side: whether batches of its own may run in threads.
    """

    side_by_side = True

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.lean = decoder, LeanDecoder(decoder)
        self._attentions = {id(step) for (kind, _), step in self.lean.sublayers.items() if kind == "mhsa"}

    def why_not_static(self, plan: StagePlan) -> str | None:
        """Why the host writes out this plan's decode steps, or None where they are static."""
        return "engine.path is not static"

    def layers(self, plan: StagePlan) -> LayerSchedule:
        """The paths of one generation; what is known of them beforehand is made."""
        layers = LayerSchedule(self.decoder, plan, self.path, self.lean.sublayers)
        if self.why_not_static(plan):
            layers.prepare()
        return layers

    def batch(self, layers: LayerSchedule, sampler: Sampler, *, lanes: int, slots: int, widest: int) -> RunningBatch:
        """An empty batch, of so many lanes (or more) of so many slots."""
        cache = self._cache(lanes, slots)
        return RunningBatch(cache, [None] * len(cache.used), widest, layers, sampler)

    def prefill(self, batch: RunningBatch, lanes: Sequence[int]) -> None:
        """Runs the prompts of these lanes' trees, but for what is known of them; chooses every row's next token."""
        trees = {lane: tree for lane in lanes if (tree := batch.trees[lane]) is not None}
        fresh = not any(tree.known for tree in trees.values())
        if not fresh:
            for lane, tree in trees.items():
                tree.fill(batch.cache, lane)
        tokens = [tree.new for tree in trees.values()]
        each = max(map(len, tokens))
        last = [index * each + at - tree.known for index, tree in enumerate(trees.values()) for at in tree.last]
        context = batch.cache.enter(list(trees), tokens, fresh=fresh)
        logits = self._logits(context, batch.layers.prefill, last, batch.work)
        batch.sampler.advance([row for tree in trees.values() for row in tree.rows], logits)

    def decode(self, batch: RunningBatch) -> None:
        """The next token of every row that is going, and where the runner runs ahead of the host, those after it.

        Rows that a schedule has sent different ways run after each other.
        """
        for going in _alike(batch) if batch.layers.splits else [batch.going]:
            self._run(batch, {lane: {row: [row.last] for row in rows} for lane, rows in going.items()})
            batch.work.steps += 1

    def verify(self, batch: RunningBatch, guesses: Mapping[Row, Sequence[int]]) -> None:
        """The next tokens of some rows in one pass: as many as their guesses agree with the plan's own choices.

        Tokens are the same as :meth:`decode` would choose, one after another. Rows may have different numbers of
        guesses. Afterwards each row's last token is again chosen but not yet run, and the cache holds just what
        precedes it.

        Args:
            guesses: by row, its last token and those that may follow it: ``n`` tokens give 1 to ``n`` new ones.
        """
        by_lane = {lane: {row: guesses[row] for row in rows if row in guesses} for lane, rows in batch.going.items()}
        self._run(batch, {lane: rows for lane, rows in by_lane.items() if rows})

    def propose(self, batch: RunningBatch, path: Path, length: int) -> dict[Row, list[int]]:
        """By row, its last token and up to ``length`` that a shorter ``path`` would have follow; nothing is kept."""
        cache, lanes = batch.cache, list(batch.going)
        guesses = {row: [row.last] for rows in batch.going.values() for row in rows}
        slots: list[tuple[int, int]] = []
        broken = False
        for _ in range(length):
            tokens, picked = list[list[Token]](), list[Row]()
            for lane in lanes:
                rows = [row for row in batch.going[lane] if _may_grow(row, guesses[row], length)]
                branch = batch.trees[lane].branch if rows else {}  # type: ignore[union-attr]
                tokens.append([(guesses[row][-1], row.length + len(guesses[row]) - 2, branch[row]) for row in rows])
                slots += [(lane, cache.used[lane] + at) for at in range(len(rows))]
                picked += rows
            if not picked:
                break
            each = max(map(len, tokens))
            at = [index * each + n for index, new in enumerate(tokens) for n in range(len(new))]
            logits = self._logits(cache.enter(lanes, tokens), path, at, batch.work)
            broken = broken or _broken(logits)
            for row, token in zip(picked, logits.argmax(dim=-1).tolist(), strict=True):
                guesses[row].append(token)
        cache.roll_back(slots, broken=broken)
        return guesses

    def settle(self, batch: RunningBatch) -> None:
        """Gives the rows what :meth:`decode` has computed ahead of the host: what is guessed goes on from there."""

    def shrink(self, batch: RunningBatch) -> None:
        """Drops the lanes that hold nothing."""
        batch.cache.keep([lane for lane, tree in enumerate(batch.trees) if tree is not None])
        batch.trees = [tree for tree in batch.trees if tree is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values that are kept for later batches."""
        return 0

    def release(self) -> None:
        """Gives back what is kept for later batches."""

    def prefix(self, prompt: Sequence[int], plan: StagePlan) -> tuple[KVCache, Tensor]:
        """A cache whose only lane holds the prompt, and the logits [vocabulary] after it."""
        cache = KVCache(self.lean, 1, len(prompt), self.decoder.device)
        context = cache.enter([0], [[(token, at, SHARED) for at, token in enumerate(prompt)]], fresh=True)
        logits = self._logits(context, self.path(plan, "prefill"), [len(prompt) - 1], self.decoder.work)
        return cache, logits[0]

    def path(
        self,
        plan: StagePlan,
        phase: str,
        skip: SkipSet | None = None,
        instead: Mapping[SubLayerName, Step] = MappingProxyType({}),
        sublayers: Mapping[SubLayerName, Step] | None = None,
    ) -> Path:
        """The functions to run, in order, in one phase (``prefill`` or ``decode``) of a stage.

        Args:
            skip: the set that a schedule has put in the place of the plan's.
            instead: by sub-layer, what runs in its place whatever the plan says.
            sublayers: another make of them all than the lean one.
        """
        skip = plan.skip if skip is None else skip
        skip = skip if plan.phase == "both" or phase == "decode" else SkipSet()
        form, changes = plan.compensation, plan.compensation in CHANGED
        path: Path = []
        for name, sublayer in (sublayers or self.lean.sublayers).items():
            tensor = plan.tensors.get(f"{name[0]}.{name[1]}") if form != "none" else None
            if name in instead:
                path.append(instead[name])
            elif tensor is not None and skip and (name in skip) != changes:
                path.append(self.lean.stand_in(form, name[1], tensor))
            elif name not in skip:
                path.append(sublayer)
        return native.joined(path)

    def _cache(self, lanes: int, slots: int) -> KVCache:
        return KVCache(self.lean, lanes, slots, self.decoder.device)

    def _run(self, batch: RunningBatch, by_lane: Mapping[int, Mapping[Row, Sequence[int]]]) -> None:
        """One pass of rows' last tokens and of what may follow them; a lane without rows only keeps its place."""
        runs, logits = self._forward(batch, by_lane, first=0)
        if len(logits) == len(runs):
            return batch.sampler.advance([one.row for one in runs], logits)
        if _broken(logits):  # a guess without numbers takes those along that it is hidden from
            _forget(batch.cache, [(one, range(len(one.tokens))) for one in runs], broken=True)
            return self._run(batch, {lane: {row: [row.last] for row in rows} for lane, rows in by_lane.items()})
        _accept(runs, logits, batch.sampler)
        _forget(batch.cache, [(one, one.rejected) for one in runs])

    def try_answers(self, batch: RunningBatch) -> None:
        """Runs what an exit rule has run on trial behind rows' last tokens; all that is kept is how sure it was."""
        trials = {
            lane: {row: [row.last, *words] for row in rows if (words := row.on_trial)}
            for lane, rows in batch.going.items()
        }
        if not any(trials.values()):
            return
        runs, logits = self._forward(batch, {lane: rows for lane, rows in trials.items() if rows}, first=-1)
        chances = logits.softmax(dim=-1).amax(dim=-1)
        for one, chance in zip(runs, chances.tolist(), strict=True):
            one.row.sure = chance
        _forget(batch.cache, [(one, range(len(one.tokens))) for one in runs], broken=bool(chances.isnan().any()))
        batch.work.steps += 1

    def _forward(
        self, batch: RunningBatch, by_lane: Mapping[int, Mapping[Row, Sequence[int]]], first: int
    ) -> tuple[list[_Run], Tensor]:
        """One pass of what rows run next; the logits after each row's tokens from the ``first`` on (-1: its last)."""
        cache, tokens, runs, picked = batch.cache, list[list[Token]](), list[_Run](), list[int]()
        each = max(sum(map(len, rows.values())) for rows in by_lane.values())  # tokens of a lane, padding included
        for index, (lane, rows) in enumerate(by_lane.items()):
            new: list[Token] = []
            for row, run in rows.items():
                runs.append(_Run(row, run, row.length, (lane, cache.used[lane] + len(new))))
                picked += range(index * each + len(new), index * each + len(new) + len(run))[first:]
                branch = batch.trees[lane].branch[row]  # type: ignore[union-attr]
                new += [(token, row.length - 1 + offset, branch) for offset, token in enumerate(run)]
            tokens.append(new)
        path = batch.layers.path([one.row for one in runs], len(runs[0].row.tokens))
        return runs, self._logits(cache.enter(list(by_lane), tokens), path, picked, batch.work)

    def _logits(self, context: ForwardContext, path: Path, picked: Sequence[int], work: Work) -> Tensor:
        """Next-token logits [picked, vocabulary] of one pass. Only they go on behind the last attention."""
        work.forwarded(len(context.ids))
        stream = self.decoder.embed(context.ids)
        behind = 1 + max((index for index, step in enumerate(path) if self._attends(step)), default=-1)
        for step in path[:behind]:
            stream = step(stream, context)
        if len(picked) < len(stream):
            stream = stream[torch.tensor(picked, device=stream.device)]
        for step in path[behind:]:
            stream = step(stream, context)
        return self.lean.logits(stream, in_c=context.few is not None)

    def _attends(self, step: Step) -> bool:
        return step.attends if isinstance(step, native.Walk) else id(step) in self._attentions


def _may_grow(row: Row, guess: Sequence[int], length: int) -> bool:
    """Whether one more token may be guessed: the text has neither ended in the guess nor come to its limit."""
    ended = len(guess) > 1 and guess[-1] in row.eos
    return not ended and len(guess) <= min(length, row.left - 1)


class _Run(NamedTuple):
    """What a row runs in one pass.

    Attributes:
        tokens: its last one, and those that may follow it.
        length: of the row, before.
        slot: of the first token: lane and slot.
    """

    row: Row
    tokens: Sequence[int]
    length: int
    slot: tuple[int, int]

    @property
    def rejected(self) -> range:
        """Those of the tokens, by number, that do not precede the row's new last one."""
        return range(self.row.length - self.length, len(self.tokens))


def _forget(cache: KVCache, runs: Sequence[tuple[_Run, range]], *, broken: bool = False) -> None:
    """Empties the slots of some of the tokens of each, of which some may be ``broken``: no numbers."""
    slots = [(lane, slot + n) for one, some in runs for lane, slot in [one.slot] for n in some]
    cache.roll_back(slots, broken=broken)


def _broken(logits: Tensor) -> bool:
    """Whether a token's stream was no number: then none of its logits is one."""
    return not bool(logits[:, 0].isfinite().all())


def _accept(runs: Sequence[_Run], logits: Tensor, sampler: Sampler) -> None:
    """Has rows take tokens for as long as they ran the ones that they take; ``logits`` are those of all tokens run."""
    firsts = [0, *accumulate(len(one.tokens) for one in runs)]
    following, step = list(zip(runs, firsts, strict=False)), 0
    while following:
        sampler.advance([one.row for one, _ in following], logits[[first + step for _, first in following]])
        step += 1
        following = [
            (one, first)
            for one, first in following
            if one.row.going and step < len(one.tokens) and one.row.last == one.tokens[step]
        ]


def _alike(batch: RunningBatch) -> list[dict[int, list[Row]]]:
    """The rows that are going, in groups of one path and as many of every lane: passes without padding, which an online
    rule would observe."""
    groups: dict[Hashable, dict[int, list[Row]]] = {}
    for lane, rows in batch.going.items():
        alike: dict[Hashable, list[Row]] = {}
        for row in rows:
            alike.setdefault(batch.layers.sets(row, len(row.tokens)), []).append(row)
        for sets, part in alike.items():
            groups.setdefault((sets, len(part)), {})[lane] = part
    return list(groups.values())
