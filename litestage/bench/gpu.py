"""What a GPU is measured by: decode steps beside generate's, the share of the ceiling, a new mask, a whole search.

``python -m litestage.bench.gpu`` prints every row as JSON as soon as it is measured, after a check of the tokens;
``decode``, ``search`` and ``profile`` are parts of it. ``--device cpu --layers 2`` tries the same functions out.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
from typer import Argument

from litestage.bench.row import Row, compared
from litestage.bench.shape import Shape, ceiling, prompts, skip_efficiency, steps_s
from litestage.cli import run_alone
from litestage.errors import LiteStageError
from litestage.plan import ExitRule, SkipSet, StagePlan

STEPS = 129  # of a decode measurement: tokens, the first of them from the prefill
QWEN, TINYLLAMA = "Qwen2.5-0.5B shape, bfloat16", "TinyLlama-1.1B shape, bfloat16"
EAGER, COMPILED = "generate, eager", "generate, static cache and compile"
CEILING = "reading the weights once"
BARS = {(QWEN, EAGER): 10.0, (QWEN, COMPILED): 1.2, (QWEN, CEILING): 0.30, (TINYLLAMA, CEILING): 0.45}
"""Asked of an H200, decoding one row."""
MASK, MASK_S = "a new mask", 1.0
SEARCH, SEARCH_S = "search on 500 questions of OBQA", 600.0
TOKENIZERS = "LITESTAGE_TOKENIZERS"
"""Environment variable: a folder with a tokenizer in ``qwen2``."""
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


def gpu_rows(layers: int, repeats: int, device: str = "cuda", steps: int = STEPS) -> Iterator[Row]:
    """Everything, in bfloat16, row by row. ``device`` ``cpu`` tries the functions out."""
    shape = Shape.made(layers, torch.bfloat16, device)
    yield from decode_rows(shape, repeats, steps)
    yield search_row(shape)


def decode_rows(shape: Shape, repeats: int, steps: int) -> Iterator[Row]:
    """One row of each shape beside what people would run, its ceiling, and what a mask costs and saves."""
    from transformers import LlamaConfig

    device = shape.engine.decoder.device
    shape = replace(shape, name=f"{shape.name}, {_where(device)}")
    what = "decode step, 1 row"
    yield compared(shape.name, what, EAGER, *steps_s(shape, 1, repeats, steps), BARS[QWEN, EAGER])
    static = steps_s(shape, 1, repeats, steps, cache_implementation="static")  # compiles its steps on a GPU
    yield compared(shape.name, what, COMPILED, *static, BARS[QWEN, COMPILED])
    yield ceiling(shape, repeats, steps, BARS[QWEN, CEILING])
    yield _new_mask(shape)
    yield from skip_efficiency(shape, repeats)
    whole = TINYLLAMA_SHAPE["num_hidden_layers"]
    layers = min(whole, shape.engine.decoder.layers)
    depth = "" if layers == whole else f", {layers} of {whole} layers"
    config = LlamaConfig(**{**TINYLLAMA_SHAPE, "num_hidden_layers": layers})
    other = Shape.of(config, f"{TINYLLAMA.split(',')[0]}{depth}", torch.bfloat16, str(device))
    other = replace(other, name=f"{other.name}, {_where(device)}")
    yield ceiling(other, repeats, steps, BARS[TINYLLAMA, CEILING])


def search_row(shape: Shape, tokenizer: Any = None, options: Sequence[str] = ()) -> Row:
    """The wall time of a whole search, ranking and step costs included, with nothing in the store.

    The weights are random, so no answer can be read, and hardly a text ends before its limit: as much work as a search
    can be.
    """
    from litestage.config import load_config
    from litestage.decoder import LoadedModel
    from litestage.engine import Engine
    from litestage.session import Session
    from litestage.session.workbench import Workbench
    from litestage.store import ResultStore, ReusingEngine

    row = Row(f"{shape.name}, {_where(shape.engine.decoder.device)}", SEARCH, "ten minutes", bar=1.0)
    try:
        engine = Engine(copy.deepcopy(shape.rival), tokenizer or _tokenizer())
        loaded = LoadedModel(shape.rival, engine.tokenizer, shape.name, None, "random")
        config = load_config(["task=obqa", "search.strategy=pareto", "search.calibration=500", *options])
        session = Session(loaded, engine, ReusingEngine(engine, "random", ResultStore()), batch_size=128)
        work = Workbench.open(config, session)
        questions = len(work.calibration()) + len(work.confirmation())
        began = perf_counter()
        found = work.search()
    except LiteStageError as error:
        return replace(row, note=f"not measured: {error}")
    seconds = perf_counter() - began
    note = f"{questions} questions, {len(found.candidates)} plans tried, {session.reusing.ran} generations"
    return replace(row, ours_s=seconds, theirs_s=SEARCH_S, ratio=SEARCH_S / seconds, note=note)


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    folder = Path(os.environ.get(TOKENIZERS, "")) / "qwen2"
    if not folder.is_dir():
        raise LiteStageError(f"{TOKENIZERS} does not name a folder with qwen2 in it.")
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _new_mask(shape: Shape) -> Row:
    """What the first decoding under a mask takes more than the next: making its steps and recording them."""
    asked = prompts(32, 0, 1)
    shape.ours(asked, 9)
    more = []
    for layer in range(shape.engine.decoder.layers):
        first, again = (shape.ours(asked, 9, SkipSet(mhsa=(layer,)))[0] for _ in range(2))
        more.append(max(first - again, 1e-6))
    return compared(shape.name, MASK, "one second", more, [MASK_S] * len(more), 1.0, "beyond the same mask again")


def check(device: str) -> dict[str, Any]:
    """Whether static steps, as they run here, write the tokens of the host's steps in float32, and how they run."""
    from litestage.engine import Decoding, Engine, Request
    from litestage.engine.graph.runner import GraphRunner

    shape = Shape.made(2, torch.float32, device)
    engine = Engine(copy.deepcopy(shape.rival), shape.engine.tokenizer, "static")
    host = Engine(copy.deepcopy(shape.rival), shape.engine.tokenizer, "host")
    asked = [Request(prompt, 12, group=row // 4) for row, prompt in enumerate(prompts(40, 20, 16))]
    same = rows = 0
    for skip in (SkipSet(), SkipSet(mhsa=(1,)), SkipSet(ffn=(0,))):
        plan = StagePlan(skip, exit=ExitRule(threshold=1e-5, window=3))
        for requests in (asked[:1], asked[:4], asked):
            ours, theirs = (one.generate(requests, plan, Decoding()).generations for one in (engine, host))
            same += sum(one.tokens == two.tokens for one, two in zip(ours, theirs, strict=True))
            rows += len(requests)
    runner = engine.runner
    assert isinstance(runner, GraphRunner)
    return {
        "check": "tokens of static steps and of the host's, float32",
        "same_rows": same,
        "rows": rows,
        "why_not_static": engine.why_not_static(StagePlan()),
        "why_not_compiled": runner.why_not_compiled,
        "steps_made": runner.made,
        "graphs_recorded": runner.graphs.captured,
    }


def profile(shape: Shape, steps: int = 33) -> str:
    """Where the time of decode steps goes: the longest kernels, as PyTorch's profiler tells them."""
    asked = prompts(32, 0, 1)
    shape.ours(asked, steps)
    with torch.profiler.profile() as profiled:
        shape.ours(asked, steps)
    by = "self_device_time_total" if shape.engine.decoder.device.type == "cuda" else "self_cpu_time_total"
    return str(profiled.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=90))


def not_measured(why: str) -> list[Row]:
    """The same rows without figures."""
    rows = [Row(f"{model}, H200", "decode step, 1 row", against, bar=bar) for (model, against), bar in BARS.items()]
    rows.append(Row(f"{QWEN}, H200", MASK, "one second", bar=1.0))
    rows.append(Row(f"{QWEN}, H200", SEARCH, "ten minutes", bar=1.0))
    return [replace(row, note=f"not measured: {why}") for row in rows]


def _where(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def main(
    parts: Annotated[list[str] | None, Argument(help="decode, search, profile; the first two by default")] = None,
    device: str = "cuda",
    layers: int = 24,
    repeats: int = 7,
    steps: int = STEPS,
) -> None:
    """Prints JSON lines; see the head of this file."""
    parts = parts or ["decode", "search"]
    print(json.dumps(check(device)), flush=True)
    shape = Shape.made(layers, torch.bfloat16, device)
    rows = decode_rows(shape, repeats, steps) if "decode" in parts else iter(())
    for row in rows:
        print(json.dumps(asdict(row)), flush=True)
    if "profile" in parts:
        print(profile(shape), flush=True)
    if "search" in parts:
        print(json.dumps(asdict(search_row(shape))), flush=True)


if __name__ == "__main__":
    run_alone(main)
