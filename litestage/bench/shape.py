"""A model of Qwen2.5-0.5B's shape with random weights: may be timed, never scored."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from litestage.bench.rivals import generate
from litestage.bench.row import Row, compared, take_turns
from litestage.engine import Decoding, Engine, Request
from litestage.plan import SkipSet, StagePlan

STAGES = ((26, 0, 1, 7), (39, 37, 4, 13), (102, 0, 1, 8))
"""Of each stage: prompt tokens, how many of them the rows share, rows, new tokens; menagerie's medians."""
SHAPE = {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "tie_word_embeddings": True}
HEADS = {"num_attention_heads": 14, "num_key_value_heads": 2}
LAYERS = 24
STEPS = 8  # of a decode measurement


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
    def made(cls, layers: int, dtype: torch.dtype) -> Shape:
        """Random weights, seed 0; nothing ends a generation but its length."""
        from transformers import AutoModelForCausalLM, Qwen2Config

        config = Qwen2Config(**SHAPE, **HEADS, num_hidden_layers=layers, eos_token_id=0, pad_token_id=0)
        torch.manual_seed(0)
        rival = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
        engine = Engine(copy.deepcopy(rival), NoText())
        # generate hands its head a slice; torch 2.13 answers by copying the whole bfloat16 head at every prefill (1.5 s
        # of 1.7): without this kindness to the rival every ratio here would be ten
        rival.lm_head.register_forward_pre_hook(
            lambda _, inputs: (inputs[0].clone(memory_format=torch.contiguous_format),)
        )
        rival.generation_config.eos_token_id, engine.eos = None, (-1,)
        depth = "" if layers == LAYERS else f", {layers} of {LAYERS} layers"
        return cls(f"Qwen2.5-0.5B shape{depth}, {str(dtype).removeprefix('torch.')}", rival, engine)

    def ours(self, prompts: list[tuple[int, ...]], limit: int, skip: SkipSet | None = None) -> tuple[float, list]:  # type: ignore[type-arg]
        """Decode seconds and the tokens of each prompt."""
        plan = StagePlan(skip or SkipSet())
        batch = self.engine.generate([Request(prompt, limit) for prompt in prompts], plan, Decoding())
        return batch.decode_s, [row.tokens for row in batch.generations]

    def theirs(self, prompts: list[tuple[int, ...]], limit: int) -> list[tuple[int, ...]]:
        return generate(self.rival, prompts, limit, pad=0)


def prompts(length: int, shared: int, rows: int) -> list[tuple[int, ...]]:
    """Rows of token ids with a common beginning."""
    draw = torch.Generator().manual_seed(length)
    ids = torch.randint(3, 50_000, (rows, length), generator=draw)
    ids[:, :shared] = ids[0, :shared]
    return [tuple(row) for row in ids.tolist()]


def shape_rows(layers: int, repeats: int) -> list[Row]:
    """Chain, prefill, steps and skip efficiency, in bfloat16."""
    shape = Shape.made(layers, torch.bfloat16)
    stages = [(prompts(length, shared, rows), limit) for length, shared, rows, limit in STAGES]

    def chain() -> list[tuple[int, ...]]:
        return [row for asked, limit in stages for row in shape.ours(asked, limit)[1]]

    def rival_chain() -> list[tuple[int, ...]]:
        return [row for asked, limit in stages for row in shape.theirs(asked, limit)]

    pairs = [
        (one, two)
        for ours, theirs in zip(chain(), rival_chain(), strict=True)
        for one, two in zip(ours, theirs, strict=True)
    ]
    differing = sum(one != two for one, two in pairs) / len(pairs)
    note = f"{differing:.0%} of tokens differ (random weights, bfloat16)"
    seconds = take_turns({"ours": chain, "theirs": rival_chain}, repeats)
    against = "generate chain, options batched"
    rows = [compared(shape.name, "three stages", against, seconds["ours"], seconds["theirs"], 1.5, note)]
    asked = prompts(128, 0, 1)
    seconds = take_turns({"ours": lambda: shape.ours(asked, 1), "theirs": lambda: shape.theirs(asked, 1)}, repeats)
    rows.append(compared(shape.name, "prefill of 128 tokens", "generate", seconds["ours"], seconds["theirs"]))
    rows += [_steps(shape, count, repeats) for count in (1, 4)]
    return [*rows, *_skip_efficiency(shape, repeats), _ceiling(shape, repeats)]


def _steps(shape: Shape, count: int, repeats: int) -> Row:
    """A decode step of some rows; generate's is what more tokens take beyond the first."""
    asked = prompts(32, 0, count)
    ours, theirs = [], []
    for repeat in range(repeats + 1):
        decode_s = shape.ours(asked, STEPS)[0]
        began = perf_counter()
        shape.theirs(asked, 1)
        prefilled = perf_counter()
        shape.theirs(asked, STEPS)
        ended = perf_counter()
        if repeat:
            ours.append(decode_s / (STEPS - 1))
            theirs.append((ended - prefilled - (prefilled - began)) / (STEPS - 1))
    return compared(shape.name, f"decode step, {count} row{'s' * (count > 1)}", "generate", ours, theirs)


def _skip_efficiency(shape: Shape, repeats: int) -> list[Row]:
    """Seconds a mask saves in decoding over those its bytes would, at the seconds per byte of full depth."""
    asked, layers = prompts(32, 0, 1), shape.engine.decoder.layers
    every = [(kind, layer) for layer in range(layers) for kind in ("mhsa", "ffn")]
    masks = {
        "full": SkipSet(),
        "25 %": SkipSet.of(every[::8] + every[5::8]),  # as many attentions as feed-forwards
        "50 %": SkipSet.of(every[::4] + every[3::4]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in masks}
    for repeat in range(repeats + 1):
        for name, skip in masks.items():
            decode_s = shape.ours(asked, STEPS, skip)[0]
            if repeat:
                seconds[name].append(decode_s)
    whole = step_bytes(shape, masks["full"])
    rows = []
    for name in ("25 %", "50 %"):
        share = 1 - step_bytes(shape, masks[name]) / whole
        saved = [full - less for full, less in zip(seconds["full"], seconds[name], strict=True)]
        ideal = [full * share for full in seconds["full"]]
        what = f"seconds saved in {STEPS - 1} steps, {name} of sub-layers skipped"
        note = f"{share:.0%} of a step's bytes; the ratio is the skip efficiency"
        # saved over ideal: the roles of ours and theirs are changed, so that more is better here too
        turned = compared(shape.name, what, "their share of the bytes", ideal, saved, 0.9, note)
        rows.append(Row(**{**turned.to_dict(), "ours_s": turned.theirs_s, "theirs_s": turned.ours_s}))
    return rows


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


def _ceiling(shape: Shape, repeats: int) -> Row:
    """A decode step beside reading its weights once, at the bandwidth that a sum over 256 MiB reaches now."""
    block = torch.ones(64 * 2**20)
    asked, full = prompts(32, 0, 1), step_bytes(shape, SkipSet())
    ours, ideal = [], []
    for repeat in range(repeats + 1):
        decode_s = shape.ours(asked, STEPS)[0]
        began = perf_counter()
        block.sum()
        reading = perf_counter() - began
        if repeat:
            ours.append(decode_s / (STEPS - 1))
            ideal.append(reading * full / block.nbytes)
    note = f"{full / 1e9:.2f} GB a step; the ratio is the share of the ceiling"
    return compared(shape.name, "decode step, 1 row", "reading the weights once", ours, ideal, None, note)
