"""A stage's draft as part of its plan: where guesses come from, and how many are made at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from litestage.drafts.lookup import BEGIN, LONGEST, Lookup, Phrases
from litestage.errors import LiteStageError, known_keys, one_of
from litestage.plan.skip import SkipSet

if TYPE_CHECKING:
    import torch

KINDS = ("lookup", "skip")
SOURCES = ("prompt", "calibration")


@dataclass(frozen=True)
class Draft:
    """Guesses of the next tokens. They change how long greedy decoding takes, never (in float32) what comes out.

    Attributes:
        kind: ``lookup`` guesses from texts (:mod:`litestage.drafts.lookup`); ``skip`` lets the model write the draft
            without the sub-layers of ``skip`` (Draft & Verify, arXiv 2309.08168; by stage).
        sources: of ``lookup``: the row's own ``prompt`` and text, the stage's ``calibration`` outputs, or both.
        length: tokens that are guessed at a time, at most.
        least: of ``lookup``: how likely a whole draft must be right for one more token to be guessed.
        skip: of ``skip``: what the draft is written without, besides what the stage itself skips.
        phrases: of ``lookup`` with ``calibration``: what the stage wrote there.
    """

    kind: str = "lookup"
    sources: tuple[str, ...] = SOURCES
    length: int = 8
    least: float = 0.2
    skip: SkipSet = field(default_factory=SkipSet)
    phrases: Phrases | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        one_of("draft kind", self.kind, KINDS)
        if type(self.length) is not int or self.length < 1:
            raise LiteStageError(f"draft length is {self.length!r}; give a number of tokens, at least 1.")
        number = isinstance(self.least, (int, float)) and not isinstance(self.least, bool)
        if not number or not 0 <= self.least <= 1:
            raise LiteStageError(f"draft least is {self.least!r}; give a probability.")
        unknown = [source for source in self.sources if source not in SOURCES]
        if unknown or not self.sources:
            raise LiteStageError(f"draft from is {list(self.sources)!r}; give prompt, calibration or both.")
        if self.kind == "skip" and not len(self.skip):
            raise LiteStageError("A draft of kind skip skips nothing; give its skip set, or leave the draft out.")
        if self.kind == "lookup" and "calibration" in self.sources and self.phrases is None:
            raise LiteStageError(
                "A draft from calibration has no calibration outputs; keep the plan's .safetensors file beside it, or "
                "draft from the prompt alone."
            )

    def __str__(self) -> str:
        if self.kind == "skip":
            parts = [f"{kind} {' '.join(map(str, each))}" for kind, each in self.skip.to_dict().items() if each]
            return f"{self.length} tokens without {', '.join(parts)}"
        return f"{self.length} tokens by lookup: {', '.join(self.sources)}"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """As the plan's YAML has it, with a digest of the calibration outputs, which lie elsewhere."""
        if self.kind == "skip":
            return {"kind": self.kind, "skip": self.skip.to_dict(), "length": self.length}
        given = {"kind": self.kind, "from": list(self.sources), "length": self.length, "least": self.least}
        if self.phrases is None:
            return given
        return {**given, "digest": hashlib.sha256(json.dumps(self.phrases.kept).encode()).hexdigest()[:16]}

    def lookup(self, prompt: Sequence[int]) -> Lookup:
        """Guesses for one row of this prompt."""
        return Lookup(prompt if "prompt" in self.sources else None, self.phrases, self.least)


def draft_from(raw: Any, tensors: Mapping[str, torch.Tensor]) -> Draft | None:
    """The draft that :attr:`Draft.settings` and :func:`draft_tensors` gave; None for none.

    Raises:
        LiteStageError: unknown keys or kinds, values that make no sense, or calibration outputs that are not there.
    """
    if raw is None or raw == "none":
        return None
    if not isinstance(raw, Mapping):
        raise LiteStageError(f"draft is {raw!r}; write kind: lookup with from and length, or kind: skip with skip.")
    kind = raw.get("kind", "lookup")
    known = ("kind", "skip", "length") if kind == "skip" else ("kind", "from", "length", "least", "digest")
    known_keys("draft", raw, known)
    sources = raw.get("from", SOURCES)
    if not isinstance(sources, Sequence) or isinstance(sources, str):
        raise LiteStageError(f"draft from is {sources!r}; give a list of prompt, calibration or both.")
    given = {key: raw[key] for key in ("length", "least") if key in raw}
    if kind == "skip":
        return Draft(kind, skip=SkipSet.from_dict(raw.get("skip") or {}, "draft skip"), **given)
    phrases = _phrases(tensors) if "calibration" in sources else None
    draft = Draft(str(kind), tuple(map(str, sources)), phrases=phrases, **given)
    if phrases is not None and raw.get("digest") not in (None, draft.settings["digest"]):
        raise LiteStageError(
            "the calibration outputs in the .safetensors file beside it belong to another plan; copy both files again, "
            "or search the plan again."
        )
    return draft


def draft_tensors(draft: Draft | None) -> dict[str, torch.Tensor]:
    """What a plan file keeps of the calibration outputs, by name."""
    if draft is None or draft.phrases is None:
        return {}
    import torch

    phrases = draft.phrases
    joined = [token for output in phrases.outputs for token in (BEGIN, *output)]
    return {
        "draft.outputs": torch.tensor(joined, dtype=torch.int32),
        "draft.prompt_only": torch.tensor(sorted(phrases.prompt_only), dtype=torch.int32),
        "draft.copied": torch.tensor(phrases.copied, dtype=torch.float64),
    }


def _phrases(tensors: Mapping[str, torch.Tensor]) -> Phrases | None:
    outputs, prompt_only, copied = (tensors.get(f"draft.{name}") for name in ("outputs", "prompt_only", "copied"))
    if outputs is None or prompt_only is None or copied is None:
        return None
    if len(copied) != LONGEST or outputs.ndim != 1:
        raise LiteStageError("the draft's tensors are of another version; search the plan again.")
    parts = groupby(outputs.tolist(), lambda token: token == BEGIN)
    return Phrases([tuple(part) for begins, part in parts if not begins], prompt_only.tolist(), copied.tolist())
