"""Tiny random models of every family, and an independent Hugging Face reference that skips sub-layers by hooks.

The weights are random: their text means nothing, but every sub-layer matters to it (see ``WEIGHT_STD``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    SmolLM3Config,
)

from litestage.decoder.load import LoadedModel, fingerprint
from litestage.engine import Engine
from litestage.plan import Plan, SkipSet
from litestage.runner import Contestant
from litestage.stages import Pipeline, Question, Stage
from litestage.store import ResultStore, ReusingEngine

LAYERS = 4
WINDOW = 8
LONGROPE_SWITCH = 24
WEIGHT_STD = 0.25
"""Large enough that dropping any one sub-layer changes what is generated (test_skip_parity asserts it)."""

_BASE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_SLIDING: dict[str, Any] = {"use_sliding_window": True, "sliding_window": WINDOW}
_LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": LONGROPE_SWITCH,
}


@dataclass(frozen=True)
class Tiny:
    """A configuration, and which of its layers attend to everything and which through a sliding window."""

    config: Any
    full: tuple[int, ...] = ()
    sliding: tuple[int, ...] = ()


FAMILIES = {
    "llama": Tiny(LlamaConfig(**_BASE), full=(0, 1, 2, 3)),
    "mistral": Tiny(MistralConfig(**_BASE, sliding_window=WINDOW, head_dim=8), sliding=(0, 1, 2, 3)),
    "qwen2": Tiny(Qwen2Config(**_BASE, **_SLIDING, max_window_layers=2), full=(0, 1), sliding=(2, 3)),
    "qwen3": Tiny(Qwen3Config(**_BASE, **_SLIDING, max_window_layers=2, head_dim=8), full=(0, 1), sliding=(2, 3)),
    "phi3": Tiny(Phi3Config(**_BASE, sliding_window=WINDOW), sliding=(0, 1, 2, 3)),
    "phi3_longrope": Tiny(
        Phi3Config(
            **_BASE, sliding_window=None, original_max_position_embeddings=LONGROPE_SWITCH, rope_parameters=_LONGROPE
        ),
        full=(0, 1, 2, 3),
    ),
    "gemma2": Tiny(
        Gemma2Config(**_BASE, head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=8), full=(1, 3), sliding=(0, 2)
    ),
    "smollm3": Tiny(
        SmolLM3Config(
            **_BASE,
            **_SLIDING,
            layer_types=["sliding_attention", "full_attention"] * 2,
            no_rope_layer_interval=2,
        ),
        full=(1, 3),
        sliding=(0, 2),
    ),
    "olmo2": Tiny(Olmo2Config(**_BASE), full=(0, 1, 2, 3)),
    "gemma3": Tiny(
        Gemma3TextConfig(
            **_BASE,
            head_dim=8,
            sliding_window=WINDOW,
            query_pre_attn_scalar=8,
            final_logit_softcapping=20.0,
            layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
            },
        ),
        full=(2,),
        sliding=(0, 1, 3),
    ),
    "granite": Tiny(
        GraniteConfig(
            **_BASE,
            embedding_multiplier=3.0,
            attention_multiplier=0.2,
            residual_multiplier=0.6,
            logits_scaling=4.0,
            attention_bias=True,
            mlp_bias=True,
        ),
        full=(0, 1, 2, 3),
    ),
    "phi4_mini": Tiny(  # transformers' class is Phi-3's
        Phi3Config(
            **{**_BASE, "tie_word_embeddings": True},
            sliding_window=WINDOW,
            original_max_position_embeddings=LONGROPE_SWITCH,
            rope_parameters={
                **_LONGROPE,
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0] * 3,
                "long_factor": [2.0, 3.0, 4.0],
            },
        ),
        sliding=(0, 1, 2, 3),
    ),
    "qwen3_5": Tiny(
        Qwen3_5TextConfig(**_BASE, head_dim=16, layer_types=["full_attention"] * LAYERS),  # 4 channels are turned
        full=(0, 1, 2, 3),
    ),
}
LONGROPES = [
    name for name, tiny in FAMILIES.items() if (tiny.config.rope_parameters or {}).get("rope_type") == "longrope"
]
"""Families whose rotary factors change with a text's length."""


class Characters:
    """A tokenizer of single characters: a token id is its character's code point; ids 0 to 2 are special."""

    eos_token_id = 2
    bos_token_id = 1
    chat_template = None

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(token) for token in tokens if token > 2 or not skip_special_tokens)


def random_model(config: Any, std: float = WEIGHT_STD) -> Any:
    """A float32 model in evaluation mode with normal weights and biases; norms keep their ones."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or name.endswith(".bias"):
                parameter.normal_(0, std)
    model.generation_config.pad_token_id = 0
    return model.requires_grad_(False)


@cache
def tiny_model(family: str) -> Any:
    return random_model(FAMILIES[family].config)


@cache
def tiny_engine(family: str, path: str = "fast") -> Engine:
    return Engine(tiny_model(family), Characters(), path)


def random_prompts(lengths: Sequence[int], seed: int = 1) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(3, 256, (length,), generator=generator).tolist()) for length in lengths]


def greedy(model: Any, prompt: Sequence[int], limit: int, **options: Any) -> tuple[int, ...]:
    """transformers' own greedy continuation at batch 1."""
    ids = torch.tensor([list(prompt)])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, **options)
    return tuple(output[0, len(prompt) :].tolist())


# --- the independent reference: the Hugging Face model itself, with hooks on its modules ---


StandIn = Callable[[Tensor], Tensor]
StandIns = Mapping[tuple[str, int], StandIn]
"""By sub-layer: what the residual stream becomes in its place."""


def _hooked(layer: nn.Module, kind: str) -> tuple[nn.Module, nn.Module]:
    """The module whose input is the residual stream before a sub-layer, and the one whose output is the update.

    Both are read off the layer's modules; the update is yet to be multiplied by Granite's ``residual_multiplier``.
    """
    post_norms = hasattr(layer, "post_feedforward_layernorm")
    if kind == "mhsa":
        return layer, layer.post_attention_layernorm if post_norms else layer.self_attn
    if post_norms:
        return getattr(layer, "pre_feedforward_layernorm", layer.mlp), layer.post_feedforward_layernorm
    return layer.post_attention_layernorm, layer.mlp


@contextmanager
def skipping_by_hooks(
    model: Any, skip: SkipSet, *, full_until: int = 0, stand_ins: StandIns | None = None
) -> Iterator[None]:
    """Forces every skipped sub-layer's update to zero, or to ``stand_in(stream) - stream``, from a position onwards.

    Only for passes over a whole sequence: ``full_until`` counts from the pass's first token.
    """
    handles = []
    for kind, layers in (("mhsa", skip.mhsa), ("ffn", skip.ffn)):
        for index in layers:
            layer = model.model.layers[index]
            before, update = _hooked(layer, kind)
            multiplier = getattr(layer, "residual_multiplier", 1.0)
            stand_in = stand_ins[kind, index] if stand_ins else lambda stream: stream
            seen: dict[str, Tensor] = {}

            def remember(module: Any, args: Any, seen: dict[str, Tensor] = seen) -> None:
                seen["stream"] = args[0]

            def replace(
                module: Any,
                args: Any,
                output: Any,
                seen: dict[str, Tensor] = seen,
                stand_in: StandIn = stand_in,
                multiplier: float = multiplier,
            ) -> Any:
                new = (output[0] if isinstance(output, tuple) else output).clone()
                stream = seen["stream"][:, full_until:]
                new[:, full_until:] = (stand_in(stream) - stream) / multiplier
                return (new, *output[1:]) if isinstance(output, tuple) else new

            handles += [before.register_forward_pre_hook(remember), update.register_forward_hook(replace)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def whole_sequence_logits(model: Any, ids: Sequence[int]) -> Tensor:
    """Logits [tokens, vocabulary] of one pass over a sequence, without a cache."""
    with torch.inference_mode():
        return model(torch.tensor([list(ids)]), use_cache=False).logits[0]


def reference_logits(
    model: Any,
    prompt: Sequence[int],
    tokens: Sequence[int],
    skip: SkipSet | None = None,
    *,
    phase: str = "both",
    stand_ins: StandIns | None = None,
) -> Tensor:
    """Logits [len(tokens), vocabulary] from which each of ``tokens`` was to be chosen.

    If every token is the argmax of its row, then by induction ``tokens`` is the reference's own greedy continuation.
    A causal model gives all rows in one pass; Phi-3's longrope, whose factors change with length, needs one pass each.
    """
    skip = skip or SkipSet()
    start = len(prompt)
    if model.config.rope_parameters.get("rope_type") == "longrope":
        rows = []
        for step in range(len(tokens)):
            # with phase "decode" the text so far is run again at full depth when the factors change
            switched = start <= LONGROPE_SWITCH < start + step
            full_until = (LONGROPE_SWITCH + 1 if switched else start) if phase == "decode" else 0
            with skipping_by_hooks(model, skip, full_until=full_until, stand_ins=stand_ins):
                rows.append(whole_sequence_logits(model, [*prompt, *tokens[:step]])[-1])
        return torch.stack(rows)
    with skipping_by_hooks(model, skip, full_until=start if phase == "decode" else 0, stand_ins=stand_ins):
        return whole_sequence_logits(model, [*prompt, *tokens])[start - 1 : -1]


# --- a staged task on a tiny model ---

PIPELINE = Pipeline(
    "tiny",
    (
        Stage("recall", "{{ question }} {% for o in options %}({{ o.label }}) {{ o.text }} {% endfor %}Recall:", 8),
        Stage(
            "analyze",
            "{{ question }} Recall: {{ recall }} Analyze: {{ option.label }} {{ option.text }},",
            6,
            fan_out="options",
        ),
        Stage("summarize", "{{ question }} {{ recall }} {{ analyze | join(' ') }} So:", 12),
    ),
    answer=r"([A-Z])",
)


def some_questions(count: int) -> list[Question]:
    """Questions of different lengths, with two to four options."""
    animals = ("turtle", "owl", "rhinoceros", "eel", "butterfly", "yak")
    return [
        Question(
            f"q{i}", f"Where does {animals[i % 6]} {i} live?", ("river", "den", "ice", "nest")[: 2 + i % 3], "AB"[i % 2]
        )
        for i in range(count)
    ]


@cache
def staged_model(family: str = "llama") -> LoadedModel:
    """A model of the family with room for staged prompts."""
    config = copy.deepcopy(FAMILIES[family].config)
    config.max_position_embeddings = 512
    model = random_model(config)
    return LoadedModel(model, Characters(), f"tiny-{family}", None, fingerprint(model))


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def contestant(
    plan: Plan | None = None, store: ResultStore | None = None, family: str = "llama", **changes: Any
) -> Contestant:
    """A staged model answering through ``PIPELINE``, at full depth unless told otherwise."""
    loaded = staged_model(family)
    kept = ResultStore() if store is None else store
    reusing = ReusingEngine(Engine(loaded.model, loaded.tokenizer), loaded.fingerprint, kept)
    full = Plan.full(PIPELINE.stage_names)
    defaults: dict[str, Any] = {"encode": encode, "pipeline": PIPELINE, "plan": plan or full}
    return Contestant(engine=reusing, **{**defaults, **changes})
