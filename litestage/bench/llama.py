"""llama.cpp beside ours: the same weights through a GGUF file, the same prompts as token ids, at its best.

A stage's rows are parallel sequences of one batch: what they share is decoded once, as tokens of all of them, and every
step is one call for all rows. Tokens are chosen greedily from its logits. Threads are ours.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from litestage.bench.rivals import Rows

SLOTS = 1024
"""Tokens of all sequences that its KV cache holds."""
ROWS = 8
"""Sequences at most."""


def missing() -> str | None:
    """Why llama.cpp cannot be run here, or None."""
    absent = [name for name, package in (("llama-cpp-python", "llama_cpp"), ("gguf", "gguf")) if not find_spec(package)]
    return f"{' and '.join(absent)} not installed (pip install 'litestage[llama-cpp]')" if absent else None


def write_gguf(model: Any, path: Path) -> None:
    """A Llama or Qwen2 model's weights, in its own dtype (norms and biases in float32), without a vocabulary."""
    import gguf

    config = model.config
    architecture = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}[config.model_type]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        called = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = _channels_in_pairs(tensor, config.hidden_size // config.num_attention_heads)
        if tensor.dim() == 2 and tensor.dtype == torch.bfloat16:
            held = tensor.contiguous().view(torch.uint8).numpy()
            writer.add_tensor(called, held, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(called, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _channels_in_pairs(weight: torch.Tensor, width: int) -> torch.Tensor:
    """A projection to queries or keys [heads * width, in] whose channels i and i + width / 2 of a head, which turn
    together, come to stand side by side: a Llama's order in llama.cpp."""
    return weight.view(-1, 2, width // 2, weight.shape[1]).transpose(1, 2).flatten(0, 2)


def _quiet() -> Any:
    """llama.cpp's functions, told to log nothing."""
    import llama_cpp

    llama_cpp.llama_log_set(_unheard(), ctypes.c_void_p(0))
    return llama_cpp


@cache
def _unheard() -> Any:
    """What it logs to; kept, since llama.cpp calls it later."""
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda level, text, data: None)


def quantise(path: Path, kind: str, to: Path) -> None:
    """Writes a GGUF file anew with its weights in fewer bits, by llama.cpp: ``Q8_0``, ``Q4_K_M``."""
    llama_cpp = _quiet()
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), torch.get_num_threads()
    failed = llama_cpp.llama_model_quantize(str(path).encode(), str(to).encode(), ctypes.byref(options))
    if failed:
        raise RuntimeError(f"llama.cpp could not write {path} in {kind}: {failed}")


class Llama:
    """A GGUF file loaded by llama.cpp, on the CPU."""

    def __init__(self, path: Path, vocabulary: int) -> None:
        llama_cpp = _quiet()
        self._api, self._vocabulary = llama_cpp, vocabulary
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), self._of_model())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_seq_max, options.kv_unified = SLOTS, ROWS, True
        options.n_threads = options.n_threads_batch = torch.get_num_threads()
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._model or not self._context:
            raise RuntimeError(f"llama.cpp could not load {path}")
        self._batch = llama_cpp.llama_batch_init(SLOTS, 0, ROWS)

    def _of_model(self) -> Any:
        options = self._api.llama_model_default_params()
        options.n_gpu_layers = 0
        return options

    def close(self) -> None:
        self._api.llama_batch_free(self._batch)
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def generate(self, prompts: Sequence[Sequence[int]], limit: int) -> Rows:
        """``limit`` new tokens of each prompt, greedy."""
        rows: list[list[int]] = [[int(scores.argmax())] for scores in self.prefill(prompts)]
        for step in range(limit - 1):
            fed = [(row[-1], len(prompts[at]) + step, [at], True) for at, row in enumerate(rows)]
            for row, scores in zip(rows, self._decode(fed), strict=True):
                row.append(int(scores.argmax()))
        return [tuple(row) for row in rows]

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[np.ndarray[Any, Any]]:
        """The logits of each prompt's next token; what all prompts begin with is decoded once."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), False)
        everyone, shortest = list(range(len(prompts))), min(map(len, prompts))
        shared = shortest - 1 if len(prompts) > 1 else 0
        while any(tuple(prompt[:shared]) != tuple(prompts[0][:shared]) for prompt in prompts):
            shared -= 1
        fed = [(token, at, everyone, False) for at, token in enumerate(prompts[0][:shared])]
        for row, prompt in enumerate(prompts):
            fed += [(prompt[at], at, [row], at == len(prompt) - 1) for at in range(shared, len(prompt))]
        return self._decode(fed)

    def _decode(self, fed: list[tuple[int, int, list[int], bool]]) -> list[np.ndarray[Any, Any]]:
        """One batch of tokens, each with its position, its sequences, and whether its logits are wanted."""
        batch = self._batch
        batch.n_tokens = len(fed)
        for at, (token, position, sequences, wanted) in enumerate(fed):
            batch.token[at], batch.pos[at], batch.logits[at] = token, position, wanted
            batch.n_seq_id[at] = len(sequences)
            for index, sequence in enumerate(sequences):
                batch.seq_id[at][index] = sequence
        failed = self._api.llama_decode(self._context, batch)
        if failed:
            raise RuntimeError(f"llama.cpp could not decode {len(fed)} tokens: {failed}")
        wanted_at = [at for at, token in enumerate(fed) if token[3]]
        return [
            np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, at), shape=(self._vocabulary,))
            for at in wanted_at
        ]
