"""Rows of another model than the comparison's own: which there are, and what opens them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from litestage.config import RunConfig
from litestage.decoder.load import check_int8
from litestage.decoder.source import source_of
from litestage.errors import LiteStageError
from litestage.methods import METHODS
from litestage.methods.shorthand import parted

RETRAINED = "full-half"
"""The row that is the reference recipe trained at half the depth, at full depth."""
QUANTISED = "full-int8"
"""The row that is the same model at full depth with its weights in 8 bits."""


@dataclass(frozen=True)
class AnotherModel:
    """A row of another model.

    Attributes:
        method: ``full`` or ``litestage``, for it.
        config: what opens it.
        name: what results call it.
        note: what the row says of it.
    """

    method: str
    config: RunConfig
    name: str
    note: str


def another_model(config: RunConfig, body: str) -> AnotherModel | None:
    """Which other model's row a method is, ``body`` being its name without suffixes; None for the comparison's own."""
    if body == QUANTISED:
        in_int8 = replace(config, engine=replace(config.engine, weights="int8"))
        return AnotherModel("full", in_int8, f"{config.model.name}, int8", "weights in 8 bits")
    if body == RETRAINED:
        half = replace(config, model=replace(config.model, pretrained="reference-half"))
        return AnotherModel("full", half, "reference-half", "retrained at half the depth")
    method, _, name = body.partition("-")
    if method not in ("full", "litestage") or name not in config.other_models:
        return None
    pretrained = config.other_models[name]
    theirs = replace(config.model, pretrained=pretrained, revision=None, adapter=None)
    return AnotherModel(method, replace(config, model=theirs), pretrained, f"another model: {pretrained}")


def check_names(config: RunConfig) -> None:
    """Raises LiteStageError for a variant or another model that would stand in another row's place, or is not there."""
    for name in config.variants:
        if name in (QUANTISED, RETRAINED):
            raise LiteStageError(f"variants.{name}: {name!r} is a row of its own; give the variant another name.")
    for name, pretrained in config.other_models.items():
        source_of(pretrained)
        for row in (f"full-{name}", f"litestage-{name}"):
            if row in (QUANTISED, RETRAINED, *config.variants, *METHODS):
                raise LiteStageError(f"other_models.{name}: {row!r} is a row already; give the model another name.")


def check_rows(config: RunConfig, specs: Sequence[str]) -> None:
    """Raises LiteStageError for a row of another model that this comparison cannot have, before any search."""
    bodies = {parted(spec)[0] for spec in specs}
    if RETRAINED in bodies and config.model.name != "reference":
        raise LiteStageError(
            f"{RETRAINED} is the reference model retrained at half the depth; it can't be compared with "
            f"{config.model.name!r}."
        )
    if QUANTISED in bodies:
        check_int8(config.engine.dtype, config.engine.device)
