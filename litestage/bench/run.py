"""The whole bench: what is measured here, and what stays in the table as not measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestage.bench.row import Row

SCHEMA = "litestage.bench/1"


@dataclass(frozen=True)
class BenchOptions:
    """How much is run. The quick bench has fewer repeats and a sixth of the large shape's layers."""

    quick: bool = False

    @property
    def repeats(self) -> int:
        return 3 if self.quick else 7

    @property
    def questions(self) -> int:
        return 6 if self.quick else 32

    @property
    def layers(self) -> int:
        return 4 if self.quick else 24


def bench(options: BenchOptions) -> dict[str, Any]:
    """Runs everything on the CPU, and on a GPU what is asked of one; returns the content of bench.json."""
    import torch

    from litestage.bench.chain import chain_rows
    from litestage.bench.gpu import gpu_rows, not_measured
    from litestage.bench.real import real_rows
    from litestage.bench.reference import reference_rows
    from litestage.bench.shape import Shape, shape_rows
    from litestage.environment import environment, peak_memory
    from litestage.session import Session

    rows = reference_rows(options.questions, options.repeats)
    rows += real_rows(max(2, options.questions // 4), min(3, options.repeats))
    shape = Shape.made(options.layers, torch.bfloat16)
    rows += [*chain_rows(shape, options.repeats), *shape_rows(shape, options.repeats)]
    rows += gpu_rows(options.layers, options.repeats) if torch.cuda.is_available() else not_measured("no GPU here")
    rows.append(Row(shape.name, "three stages", "vLLM", note="not measured: this bench does not run vLLM"))
    engine = Session.open("reference", dtype="float32", device="cpu").engine
    return {
        "schema": SCHEMA,
        "quick": options.quick,
        "environment": environment(engine),
        "memory": peak_memory(),
        "rows": [row.to_dict() for row in rows],
    }
