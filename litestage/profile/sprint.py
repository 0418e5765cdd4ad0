"""SPRINT's pruning (IJCAI 2025, arXiv 2506.03510; snudm-starlab/SPRINT): sub-layers by harm per second, tuned for.

A sub-layer's harm is looked at where it can be made up for: at the output of the next feed-forward that stays. There
the stream X of the sub-layers as they are is compared with X_u, without it: ``sum|X - X_u| / sum|X|``, over each
sequence, then their mean. Divided by the seconds that a sub-layer of its kind takes, the least is left out. With
tuning the five least are looked at again, each after that feed-forward's down projection has been solved for:
``W = lstsq(I'I, I'(X - R))``, I what the projection is given and R the stream it adds to, without the sub-layer; the
projection of the one that is left out is kept. No damping; a solution that is no number is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.linalg import lstsq
from torch import Tensor

from litestage.errors import LiteStageError
from litestage.profile.forced import TeacherForced
from litestage.progress import bar

CANDIDATES = 5


@dataclass(frozen=True)
class Tuning:
    """What a sub-layer's leaving out harms once the feed-forward at ``place`` is tuned for it, and how that is.

    Attributes:
        weight: its down projection [inner, width], float32; None: as it was.
    """

    harm: float
    place: int
    weight: Tensor | None


class Pruning:
    """A decoder that loses sub-layers one after another, by their place in it, on teacher-forced sequences.

    Args:
        prices: seconds of a sub-layer, by kind; only their ratio matters.
        tunes: whether a feed-forward is tuned for each.

    Attributes:
        gone: those that were left out, in order.
        weights: by place, the tuned down projections [inner, width] of the feed-forwards that stay.
        weights_at: the same as they were when so many were gone, 0 first.

    Raises:
        LiteStageError: feed-forwards are to be tuned, and a norm follows their down projections.
    """

    def __init__(self, forced: TeacherForced, prices: Mapping[str, float], tunes: bool) -> None:
        self._forced, self._prices, self._tunes = forced, prices, tunes
        self._feed_forwards = [layer.feed_forward for layer in forced.decoder.architecture.layers]
        if tunes and any(ffn.post_norm is not None for ffn in self._feed_forwards):
            raise LiteStageError(
                "sprint tunes down projections, and in this model a norm follows them; use sprint-bare instead."
            )
        self.gone: list[int] = []
        self.weights: dict[int, Tensor] = {}
        self.weights_at: list[dict[int, Tensor]] = [{}]
        self._harms: dict[int, float] = {}  # untuned, of those that what was left out last does not bear on

    @torch.inference_mode()
    def extend(self, known: Sequence[int], count: int) -> list[int]:
        """Leaves out the ``known`` ones, then the least harmful per second until ``count`` are gone; all in order."""
        with bar("sub-layers left out, each with what is tuned for it", count) as advance:
            for place in known[:count]:
                self._leave_out(place, self._tuned(place) if self._tunes else None)
                advance(1)
            while len(self.gone) < count:
                self._leave_out(*self._next())
                advance(1)
        return self.gone

    def _next(self) -> tuple[int, Tuning | None]:
        places = [place for place in range(len(self._forced.decoder.sublayers)) if place not in self.gone]
        for place in places:
            if place not in self._harms:
                last = self._seen_at(place)
                self._harms[place] = self._distance(self._whole(place, last), self._without(place, last))
        ranked = sorted(places, key=lambda place: self._harms[place] / self._price(place))
        tunable = [place for place in ranked if self._tunes and self._following(place) is not None][:CANDIDATES]
        tunings = {place: tuning for place in tunable if (tuning := self._tuned(place)) is not None}
        if not tunings:
            return ranked[0], None
        best = min(tunings, key=lambda place: tunings[place].harm / self._price(place))
        return best, tunings[best]

    def _leave_out(self, place: int, tuning: Tuning | None) -> None:
        """Leaves a sub-layer out, and has the feed-forward that was tuned for it as it was tuned."""
        self.gone = [*self.gone, place]
        if tuning is not None and tuning.weight is not None:
            self.weights[tuning.place] = tuning.weight
        self.weights.pop(place, None)
        self.weights_at.append(dict(self.weights))
        del self._forced.streams[place + 1 :]
        self._harms = {at: harm for at, harm in self._harms.items() if self._seen_at(at) < place}

    def _price(self, place: int) -> float:
        return self._prices["ffn" if place % 2 else "mhsa"]

    def _following(self, place: int) -> int | None:
        """The next feed-forward that stays, or None."""
        later = range(place + 2 - (place + 1) % 2, len(self._forced.decoder.sublayers), 2)
        return next((at for at in later if at not in self.gone), None)

    def _seen_at(self, place: int) -> int:
        """Where a sub-layer's harm is looked at; at the end of the decoder, behind its neighbour."""
        following = self._following(place)
        return min(place + 1, len(self._forced.decoder.sublayers) - 1) if following is None else following

    def _tuned(self, place: int) -> Tuning | None:
        """The feed-forward behind ``place`` solved for its absence, or None where there is none."""
        tuned = self._following(place)
        if tuned is None:
            return None
        whole, residual = self._whole(place, tuned), self._without(place, tuned - 1)
        inner, valid = self._forced.decoder.feed_forward_inner(tuned // 2, residual), self._forced.valid
        ffn = self._feed_forwards[tuned // 2]
        target = (whole - residual)[valid].float() / ffn.multiplier
        if ffn.output.bias is not None:
            target = target - ffn.output.bias.float()
        given = inner[valid].float()
        weight = _lstsq((given.T @ given).cpu(), (given.T @ target).cpu())
        if not bool(weight.isfinite().all()):
            return Tuning(self._distance(whole, self._run(tuned, residual)), tuned, None)
        return Tuning(self._distance(whole, residual + self._update(tuned, inner, weight)), tuned, weight)

    def _stream(self, place: int) -> Tensor:
        """The stream before a sub-layer, without what had been left out."""
        streams = self._forced.streams
        while len(streams) <= place:
            index = len(streams) - 1
            streams.append(streams[-1] if index in self.gone else self._run(index, streams[-1]))
        return streams[place]

    def _whole(self, place: int, last: int) -> Tensor:
        """The stream after sub-layer ``last`` with everything from ``place`` on in it, also what had been left out."""
        stream = self._stream(place)
        for index in range(place, last + 1):
            stream = self._run(index, stream)
        return stream

    def _without(self, place: int, last: int) -> Tensor:
        """The stream after sub-layer ``last`` without ``place`` and what had been left out."""
        stream = self._stream(place)
        for index in range(place + 1, last + 1):
            stream = stream if index in self.gone else self._run(index, stream)
        return stream

    def _run(self, place: int, stream: Tensor) -> Tensor:
        weight = self.weights.get(place)
        if weight is None:
            return self._forced.step(place, stream)
        return stream + self._update(place, self._forced.decoder.feed_forward_inner(place // 2, stream), weight)

    def _update(self, place: int, inner: Tensor, weight: Tensor) -> Tensor:
        ffn = self._feed_forwards[place // 2]
        update = inner @ weight.to(inner)
        return (update if ffn.output.bias is None else update + ffn.output.bias) * ffn.multiplier

    def _distance(self, whole: Tensor, without: Tensor) -> float:
        valid = self._forced.valid[..., None]
        apart, size = (
            (values.float().abs() * valid).sum(dim=(1, 2)) for values in (whole.float() - without.float(), whole)
        )
        return float((apart / size).mean())


def _lstsq(a: Tensor, b: Tensor) -> Tensor:
    """``torch.linalg.lstsq`` by SciPy, of the same input the same to the last bit: MKL's differs from call to call."""
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return torch.full_like(b, float("nan"))
    rank_at = float(torch.finfo(a.dtype).eps) * len(a)
    solved = lstsq(a.double().numpy(), b.double().numpy(), cond=rank_at, lapack_driver="gelsy")[0]
    return torch.from_numpy(solved).to(a.dtype)
