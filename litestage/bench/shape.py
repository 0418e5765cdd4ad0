"""A model of Qwen2.5-0.5B's shape with random weights: may be timed, never scored."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from litestage.bench.rivals import Rows, generate
from litestage.bench.row import Row, compared, in_turns, seconds_of, take_turns
from litestage.decoder.panels import HugePages
from litestage.engine import Decoding, Engine, Request
from litestage.plan import SkipSet, StagePlan
from litestage.stats.bootstrap import median_interval

SHAPE = {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "tie_word_embeddings": True}
HEADS = {"num_attention_heads": 14, "num_key_value_heads": 2}
LAYERS = 24
STEPS = 8  # of a decode measurement
FEW_STEPS = 2  # where two measurements are subtracted
MANY_STEPS = 64  # the same on a GPU, where they are short and entering them is not
ALTERNATIONS = 6  # of those, for every repeat of the others


class NoText:
    """A tokenizer's place where only token ids matter."""

    eos_token_id = 0

    def decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        return ""


@dataclass
class Shape:
    """The same weights twice: as transformers runs them, and in the engine, which packs its own."""

    name: str
    rival: Any
    engine: Engine

    @classmethod
    def made(cls, layers: int, dtype: torch.dtype, device: str = "cpu") -> Shape:
        """Qwen2.5-0.5B's shape; see :meth:`of`."""
        from transformers import Qwen2Config

        config = Qwen2Config(**SHAPE, **HEADS, num_hidden_layers=layers, eos_token_id=0, pad_token_id=0)
        depth = "" if layers == LAYERS else f", {layers} of {LAYERS} layers"
        return cls.of(config, f"Qwen2.5-0.5B shape{depth}", dtype, device)

    @classmethod
    def of(cls, config: Any, name: str, dtype: torch.dtype, device: str) -> Shape:
        """Random weights, seed 0; nothing ends a generation but its length."""
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        rival = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False).to(device)
        engine = Engine(copy.deepcopy(rival), NoText())
        # generate hands its head a slice; torch 2.13 answers by copying the whole bfloat16 head at every prefill (1.5 s
        # of 1.7): without this kindness to the rival every ratio here would be ten
        rival.lm_head.register_forward_pre_hook(
            lambda _, inputs: (inputs[0].clone(memory_format=torch.contiguous_format),)
        )
        rival.generation_config.eos_token_id, engine.eos = None, (-1,)
        return cls(f"{name}, {str(dtype).removeprefix('torch.')}", rival, engine)

    def ours(self, prompts: list[tuple[int, ...]], limit: int, skip: SkipSet | None = None) -> tuple[float, list]:  # type: ignore[type-arg]
        """Decode seconds and the tokens of each prompt."""
        plan = StagePlan(skip or SkipSet())
        batch = self.engine.generate([Request(prompt, limit) for prompt in prompts], plan, Decoding())
        return batch.decode_s, [row.tokens for row in batch.generations]

    def theirs(self, prompts: list[tuple[int, ...]], limit: int, **options: Any) -> list[tuple[int, ...]]:
        return generate(self.rival, prompts, limit, pad=0, **options)


def prompts(length: int, shared: int, rows: int) -> list[tuple[int, ...]]:
    """Rows of token ids with a common beginning."""
    draw = torch.Generator().manual_seed(length)
    ids = torch.randint(3, 30_000, (rows, length), generator=draw)
    ids[:, :shared] = ids[0, :shared]
    return [tuple(row) for row in ids.tolist()]


def shape_rows(shape: Shape, repeats: int) -> list[Row]:
    """Prefill, steps and skip efficiency."""
    asked = prompts(128, 0, 1)
    runs = {"ours": lambda: shape.ours(asked, 1), "theirs": lambda: shape.theirs(asked, 1)}
    ours, theirs = take_turns(runs, repeats).values()
    rows = [compared(shape.name, "prefill of 128 tokens", "generate", ours, theirs)]
    rows += [decode_row(shape, count, repeats, "generate") for count in (1, 4)]
    return [*rows, *skip_efficiency(shape, repeats), ceiling(shape, repeats)]


def decode_row(shape: Shape, count: int, repeats: int, against: str, rival: Callable[..., Rows] | None = None) -> Row:
    """A decode step of ``count`` rows; see :func:`steps_s`."""
    ours, theirs = steps_s(shape, count, repeats, STEPS, rival)
    return compared(shape.name, f"decode step, {count} row{'s' * (count > 1)}", against, ours, theirs)


def steps_s(
    shape: Shape, count: int, repeats: int, steps: int, rival: Callable[..., Rows] | None = None, **options: Any
) -> tuple[list[float], list[float]]:
    """Seconds of a decode step of some rows, in turns; the rival's is what more tokens take beyond the first.

    Args:
        rival: makes tokens from prompts, their number and ``options``; generate, unless another is given.
    """
    asked, run = prompts(32, 0, count), rival or shape.theirs

    def theirs() -> float:
        first, all_of_them = (seconds_of(partial(run, asked, limit, **options)) for limit in (1, steps))
        return (all_of_them - first) / (steps - 1)

    ours, rivals = in_turns([lambda: shape.ours(asked, steps)[0] / (steps - 1), theirs], repeats)
    return ours, rivals


def skip_efficiency(shape: Shape, repeats: int) -> list[Row]:
    """The share of a step's time that a mask saves, over the share of its bytes.

    A difference of two times is noisier than they are: few steps at a time, many times in turn, and each beside what
    full depth took right before and after it.
    """
    asked, layers = prompts(8, 0, 1), shape.engine.decoder.layers
    every = [(kind, layer) for layer in range(layers) for kind in ("mhsa", "ffn")]
    masks = {
        "25 %": SkipSet.of(every[::8] + every[5::8]),  # as many attentions as feed-forwards
        "50 %": SkipSet.of(every[::4] + every[3::4]),
    }
    full, seconds = [_step_s(shape, asked, SkipSet())], {name: [_step_s(shape, asked, masks[name])] for name in masks}
    for _ in range(ALTERNATIONS * max(4, repeats)):
        full.append(_step_s(shape, asked, SkipSet()))
        for name, skip in masks.items():
            seconds[name].append(_step_s(shape, asked, skip))
            full.append(_step_s(shape, asked, SkipSet()))
    whole, rows = step_bytes(shape, SkipSet()), []
    for at, (name, skip) in enumerate(masks.items()):
        share = 1 - step_bytes(shape, skip) / whole
        less = np.array(seconds[name][1:])  # the first warms up
        around = (np.array(full[1 + at :: 3][: len(less)]) + np.array(full[2 + at :: 3][: len(less)])) / 2
        ratio, interval = median_interval((1 - less / around) / share)
        what = f"decode step, {name} of sub-layers skipped"
        note = f"the ratio is the skip efficiency: the share of time saved over that of bytes, {share:.0%}"
        of_less, of_full = float(np.median(less)), float(np.median(around))
        rows.append(Row(shape.name, what, "full depth", of_less, of_full, ratio, interval, 0.9, note))
    return rows


def _step_s(shape: Shape, asked: list[tuple[int, ...]], skip: SkipSet) -> float:
    steps = FEW_STEPS if shape.engine.decoder.device.type == "cpu" else MANY_STEPS
    return shape.ours(asked, 1 + steps, skip)[0] / steps


def step_bytes(shape: Shape, skip: SkipSet) -> int:
    """Bytes of the weights that one decode step reads."""
    layers = shape.rival.model.layers
    parts = [
        part
        for index, layer in enumerate(layers)
        for kind, part in (("mhsa", layer.self_attn), ("ffn", layer.mlp))
        if (kind, index) not in skip
    ]
    return sum(p.nbytes for part in [*parts, shape.rival.lm_head] for p in part.parameters())


def ceiling(shape: Shape, repeats: int, steps: int = STEPS, bar: float | None = None) -> Row:
    """A decode step beside reading its weights once, at the bandwidth that a sum over much memory reaches now."""
    device = shape.engine.decoder.device
    elements = 64 * 2**20 if device.type == "cpu" else 2**30  # beyond any cache
    block, asked, full = _block(elements, device), prompts(32, 0, 1), step_bytes(shape, SkipSet())
    ours, ideal = in_turns(
        [
            lambda: shape.ours(asked, steps)[0] / (steps - 1),
            lambda: seconds_of(lambda: block.sum().item()) * full / block.nbytes,
        ],
        repeats,
    )
    note = f"{full / 1e9:.2f} GB a step; the ratio is the share of the ceiling"
    return compared(shape.name, "decode step, 1 row", "reading the weights once", ours, ideal, bar, note)


def _block(elements: int, device: torch.device) -> torch.Tensor:
    """Ones, on the CPU in huge pages where there are any, as our weights are: memory's best."""
    if device.type != "cpu":
        return torch.ones(elements, device=device)
    return HugePages().take(2 * elements).view(torch.float32).fill_(1)
