"""A skip set: which sub-layers are not run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from litestage.errors import LiteStageError, known_keys

SubLayerName = tuple[str, int]
"""Kind (``mhsa`` or ``ffn``) and layer index."""


def _layers(kind: str, values: Iterable[int]) -> tuple[int, ...]:
    values = tuple(values)
    for value in values:
        if type(value) is not int or value < 0:
            raise LiteStageError(f"skip.{kind} holds {value!r}; layer indices are whole numbers from 0.")
    if len(set(values)) != len(values):
        raise LiteStageError(f"skip.{kind} names a layer twice: {list(values)}; name each once.")
    return tuple(sorted(values))


@dataclass(frozen=True)
class SkipSet:
    """Layers whose attention (``mhsa``) and whose feed-forward (``ffn``) sub-layer are not run."""

    mhsa: tuple[int, ...] = ()
    ffn: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "mhsa", _layers("mhsa", self.mhsa))
        object.__setattr__(self, "ffn", _layers("ffn", self.ffn))

    def __len__(self) -> int:
        return len(self.mhsa) + len(self.ffn)

    def __contains__(self, sublayer: SubLayerName) -> bool:
        kind, layer = sublayer
        return layer in (self.mhsa if kind == "mhsa" else self.ffn)

    @classmethod
    def from_dict(cls, raw: Any, where: str = "skip") -> SkipSet:
        """From plain data, ``{mhsa: [3], ffn: [3, 4]}``. Raises LiteStageError for anything else."""
        known_keys(where, raw, ("mhsa", "ffn"))
        if not all(isinstance(layers or [], (list, tuple, str)) for layers in raw.values()):
            raise LiteStageError(f"{where} is {raw!r:.80}, which does not list layers; write mhsa: [3].")
        return cls(raw.get("mhsa") or (), raw.get("ffn") or ())

    def to_dict(self) -> dict[str, list[int]]:
        return {"mhsa": list(self.mhsa), "ffn": list(self.ffn)}

    @classmethod
    def of(cls, sublayers: Iterable[SubLayerName]) -> SkipSet:
        """From (kind, layer) pairs."""
        pairs = list(sublayers)
        return cls(
            tuple(layer for kind, layer in pairs if kind == "mhsa"),
            tuple(layer for kind, layer in pairs if kind == "ffn"),
        )

    @classmethod
    def of_layers(cls, layers: Iterable[int]) -> SkipSet:
        """Whole layers: both sub-layers of each."""
        chosen = tuple(layers)
        return cls(chosen, chosen)

    @classmethod
    def of_places(cls, places: Iterable[int]) -> SkipSet:
        """From indices among the decoder's sub-layers."""
        return cls.of(("ffn" if place % 2 else "mhsa", place // 2) for place in places)

    @property
    def names(self) -> list[SubLayerName]:
        """The sub-layers in the order in which the decoder has them."""
        named = [*(("mhsa", layer) for layer in self.mhsa), *(("ffn", layer) for layer in self.ffn)]
        return sorted(named, key=_place)

    @property
    def cuts(self) -> list[list[SubLayerName]]:
        """The skipped sub-layers in runs of neighbours: each run is one cut through the decoder."""
        cuts: list[list[SubLayerName]] = []
        for name in self.names:
            if cuts and _place(cuts[-1][-1]) + 1 == _place(name):
                cuts[-1].append(name)
            else:
                cuts.append([name])
        return cuts


def _place(name: SubLayerName) -> int:
    """Index among the decoder's sub-layers."""
    return 2 * name[1] + (name[0] == "ffn")
