"""The layer schedule: which sub-layers each generated token runs under a plan, and what an online rule observes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from litestage.decoder.decoder import Decoder, Path, Step
from litestage.plan import StagePlan
from litestage.plan.schedule import step_sets
from litestage.plan.skip import SubLayerName


@dataclass
class _Observed:
    """Sums over a row's observed tokens: cosines and norm ratios [2, feed-forwards that run]."""

    sums: Tensor
    tokens: int = 0


class LayerSchedule:
    """The paths of one generation, row by row. A row is anything hashable; its tokens are counted from 1.

    A pass of a plan with an online rule holds as many tokens of each row, row by row, and no padding: a stream is
    [tokens, width].

    A fixed plan has one path. Steps have one per set. An online rule (AdaSkip, arXiv 2501.02336, step 4) observes at
    first, then gives each row its own: feed-forwards of mean cosine at or above the threshold become ``r x``.

    Args:
        path: makes the functions to run: :meth:`litestage.engine.runner.HostRunner.path`.
        steps: the sub-layers that it makes them of.
    """

    def __init__(
        self, decoder: Decoder, plan: StagePlan, path: Callable[..., Path], steps: Mapping[SubLayerName, Step]
    ) -> None:
        self._decoder, self.plan, self._path, self._steps = decoder, plan, path, steps
        self._online = (plan.schedule or {}).get("online")
        self._watched = [layer for layer in range(decoder.layers) if ("ffn", layer) not in plan.skip]
        self._observed: dict[Hashable, _Observed] = {}
        self._decided: dict[Hashable, dict[int, float]] = {}
        self._paths: dict[Hashable, Path] = {}

    def prepare(self) -> None:
        """Makes the paths that are known beforehand, so that no step waits for its own."""
        if self._online is None:
            for token in (1, *(start for start, _ in step_sets(self.plan.schedule))):
                self.path([None], token)

    def restart(self) -> None:
        """Forgets what was observed, as rows begin anew."""
        self._observed.clear()
        self._decided.clear()
        self._paths.clear()

    @cached_property
    def prefill(self) -> Path:
        """What prompts run."""
        return self._path(self.plan, "prefill")

    @property
    def splits(self) -> bool:
        """Whether rows may come to take different paths."""
        return self.plan.schedule is not None

    def path(self, rows: Sequence[Hashable], token: int) -> Path:
        """What rows of one group run next; ``token`` is any one's number."""
        key = (self.sets(rows[0], token), tuple(rows) if self._online else None)
        if key not in self._paths:
            self._paths[key] = self._made(rows, token)
        return self._paths[key]

    def unchanged_until(self, token: int) -> int | None:
        """The last token that takes the same path as this one; None if all later ones do."""
        if self._online:
            observe: int = self._online["observe"]
            return observe if token <= observe else None
        return min((start - 1 for start, _ in step_sets(self.plan.schedule) if start > token), default=None)

    def sets(self, row: Hashable, token: int) -> Hashable:
        """What rows must share to run their ``token``-th tokens together."""
        skip = self.plan.skip_at(token)
        return tuple(self._decision(row)) if skip is None else skip

    def _made(self, rows: Sequence[Hashable], token: int) -> Path:
        skip = self.plan.skip_at(token)
        if skip is None:
            decisions = [self._decision(row) for row in rows]
            instead = {("ffn", layer): self._scaled([d[layer] for d in decisions]) for layer in decisions[0]}
            return self._path(self.plan, "decode", instead=instead)
        if self._online is None:
            return self._path(self.plan, "decode", skip)
        seen: list[Tensor] = []
        watching = {("ffn", layer): _watching(self._steps["ffn", layer], seen) for layer in self._watched}
        return [*self._path(self.plan, "decode", instead=watching), self._noting(rows, seen)]

    def _noting(self, rows: Sequence[Hashable], seen: list[Tensor]) -> Step:
        """Ends a pass: adds what was seen of each row to its sums; the stream stays as it is."""

        def note(stream: Tensor, attending: Any) -> Tensor:
            if seen:
                by_token = torch.stack(seen, dim=1).double()
                new = by_token.view(*by_token.shape[:2], len(rows), -1)  # [2, feed-forwards, rows, tokens]
                seen.clear()
                for index, row in enumerate(rows):
                    observed = self._observed.setdefault(row, _Observed(torch.zeros_like(new[:, :, 0, 0])))
                    observed.sums = observed.sums + new[:, :, index].sum(dim=2)
                    observed.tokens += new.shape[3]
            return stream

        return note

    def _decision(self, row: Hashable) -> dict[int, float]:
        """By layer, the factor that stands in for the row's feed-forward from now on."""
        if row not in self._decided:
            observed = self._observed.get(row)
            assert self._online is not None
            means = (observed.sums / observed.tokens).tolist() if observed else ([], [])
            self._decided[row] = {
                layer: ratio
                for layer, cosine, ratio in zip(self._watched if observed else (), *means, strict=True)
                if cosine >= self._online["threshold"]
            }
        return self._decided[row]

    def _scaled(self, ratios: Sequence[float]) -> Step:
        decoder = self._decoder
        factor = torch.tensor(ratios, device=decoder.device, dtype=decoder.dtype)
        return lambda stream, attending: stream * factor.view(-1, *[1] * (stream.dim() - 1))


def _watching(step: Step, seen: list[Tensor]) -> Step:
    """The sub-layer, run; its cosine before and after and its norm ratio, [2, tokens of all rows], go to ``seen``."""

    def run(stream: Tensor, attending: Any) -> Tensor:
        after = step(stream, attending)
        x, y = stream.flatten(0, -2).float(), after.flatten(0, -2).float()
        seen.append(torch.stack([torch.cosine_similarity(x, y, dim=-1), y.norm(dim=-1) / x.norm(dim=-1)]))
        return after

    return run
