"""What a GPU is measured by: decode steps beside generate's, the share of the ceiling, a new mask, skip efficiency."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from litestage.bench.row import Row, compared
from litestage.bench.shape import Shape, ceiling, prompts, skip_efficiency, steps_s
from litestage.plan import SkipSet

STEPS = 129  # of a decode measurement: tokens, the first of them from the prefill
QWEN, TINYLLAMA = "Qwen2.5-0.5B shape, bfloat16", "TinyLlama-1.1B shape, bfloat16"
EAGER, COMPILED = "generate, eager", "generate, static cache and compile"
CEILING = "reading the weights once"
BARS = {(QWEN, EAGER): 10.0, (QWEN, COMPILED): 1.2, (QWEN, CEILING): 0.30, (TINYLLAMA, CEILING): 0.45}
"""Asked of an H200, decoding one row."""
TINYLLAMA_SHAPE: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def gpu_rows(layers: int, repeats: int, device: str = "cuda", steps: int = STEPS) -> list[Row]:
    """Everything, in bfloat16. ``device`` ``cpu`` tries the functions out."""
    from transformers import LlamaConfig

    shape = Shape.made(layers, torch.bfloat16, device)
    eager = compared(shape.name, "decode step, 1 row", EAGER, *steps_s(shape, 1, repeats, steps), BARS[QWEN, EAGER])
    static = steps_s(shape, 1, repeats, steps, cache_implementation="static")  # compiles its steps on a GPU
    rows = [eager, compared(shape.name, "decode step, 1 row", COMPILED, *static, BARS[QWEN, COMPILED])]
    rows += [ceiling(shape, repeats, steps, BARS[QWEN, CEILING]), *skip_efficiency(shape, repeats)]
    rows.append(_new_mask(shape))
    tinyllama = Shape.of(LlamaConfig(**TINYLLAMA_SHAPE), TINYLLAMA.split(",")[0], torch.bfloat16, device)
    rows.append(ceiling(tinyllama, repeats, steps, BARS[TINYLLAMA, CEILING]))
    where = torch.cuda.get_device_name() if device == "cuda" else device
    return [replace(row, model=f"{row.model}, {where}") for row in rows]


def _new_mask(shape: Shape) -> Row:
    """The first decoding under a mask beside the next: the difference is what a recording costs."""
    asked = prompts(32, 0, 1)
    shape.ours(asked, 9)
    pairs = [
        [shape.ours(asked, 9, SkipSet(mhsa=(layer,)))[0] for _ in range(2)]
        for layer in range(shape.engine.decoder.layers)
    ]
    first, again = zip(*pairs, strict=True)
    note = "asked is that the difference is at most a second"
    return compared(shape.name, "8 steps under a new mask", "the same mask again", first, again, None, note)


def not_measured(why: str) -> list[Row]:
    """The same rows without figures."""
    rows = [Row(f"{model}, H200", "decode step, 1 row", against, bar=bar) for (model, against), bar in BARS.items()]
    rows.append(Row(f"{QWEN}, H200", "8 steps under a new mask", "the same mask again"))
    rows.append(Row(f"{QWEN}, H200", "search on 500 questions of OBQA", "ten minutes"))
    return [replace(row, note=f"not measured: {why}") for row in rows]
