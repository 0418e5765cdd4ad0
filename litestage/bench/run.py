"""The whole bench: what is measured here, and what stays in the table as not measured."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
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

    from litestage.bench.gpu import gpu_rows, not_measured
    from litestage.bench.reference import reference_rows
    from litestage.bench.shape import shape_rows
    from litestage.engine import Engine
    from litestage.environment import environment
    from litestage.memory import peak_memory
    from litestage.session import Session

    rows = reference_rows(options.questions, options.repeats)
    rows += shape_rows(options.layers, options.repeats)
    rows += gpu_rows(options.layers, options.repeats) if torch.cuda.is_available() else not_measured("no GPU here")
    rows += _rivals_not_measured()
    session = Session.open("reference", dtype="float32", device="cpu")
    engine: Engine = session.engine
    return {
        "schema": SCHEMA,
        "quick": options.quick,
        "environment": environment(engine),
        "memory": peak_memory(),
        "rows": [row.to_dict() for row in rows],
    }


def _rivals_not_measured() -> list[Row]:
    rows = []
    for package, name, bar in (("llama_cpp", "llama.cpp", 1.0), ("vllm", "vLLM", None)):
        here = "is installed, but not yet run by this version" if find_spec(package) else "is not installed"
        note = f"not measured: {name} {here}"
        rows.append(Row("Qwen2.5-0.5B shape, bfloat16", "three stages", name, bar=bar, note=note))
    return rows
