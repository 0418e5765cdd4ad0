"""The whole bench: what is measured here, and what stays in the table as not measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from litestage.bench.row import Row

SCHEMA = "litestage.bench/1"


def bench(quick: bool = False) -> dict[str, Any]:
    """Runs everything on the CPU, and on a GPU what is asked of one; returns the content of bench.json.

    Args:
        quick: fewer repeats, and a sixth of the large shape's layers.
    """
    import torch

    from litestage.bench.chain import chain_rows
    from litestage.bench.gpu import gpu_rows, not_measured
    from litestage.bench.real import real_rows
    from litestage.bench.reference import reference_rows
    from litestage.bench.shape import Shape, shape_rows
    from litestage.environment import environment, peak_memory
    from litestage.session import Session

    repeats, questions, layers = (3, 6, 4) if quick else (7, 32, 24)
    rows = reference_rows(questions, repeats)
    rows += real_rows(max(2, questions // 4), min(3, repeats))
    shape = Shape.made(layers, torch.bfloat16)
    rows += [*chain_rows(shape, repeats), *shape_rows(shape, repeats)]
    rows += gpu_rows(layers, repeats) if torch.cuda.is_available() else not_measured("no GPU here")
    rows.append(Row(shape.name, "three stages", "vLLM", note="not measured: this bench does not run vLLM"))
    engine = Session.open("reference", dtype="float32", device="cpu").engine
    return {
        "schema": SCHEMA,
        "quick": quick,
        "environment": environment(engine),
        "memory": peak_memory(),
        "rows": [asdict(row) for row in rows],
    }
