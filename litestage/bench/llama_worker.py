"""llama.cpp's own process: a GGUF file loaded on the CPU, and greedy generation from it at llama.cpp's best.

A stage's rows are parallel sequences of one batch: what they share is decoded once, as tokens of all of them, and every
step is one call for all rows. Tokens are chosen greedily from its logits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from litestage.bench.rivals import Rows
from litestage.engine import common_prefix

SLOTS = 1024
"""Tokens of all sequences that its KV cache holds."""
ROWS = 8
"""Sequences at most."""


def quantise(path: Path, kind: str, to: Path, threads: int) -> None:
    """Writes a GGUF file anew with its weights in fewer bits, by llama.cpp: ``Q8_0``, ``Q4_K_M``."""
    llama_cpp = _quiet()
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), threads
    failed = llama_cpp.llama_model_quantize(str(path).encode(), str(to).encode(), ctypes.byref(options))
    if failed:
        raise RuntimeError(f"llama.cpp could not write {path} in {kind}: {failed}")


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


class LoadedFile:
    """A GGUF file loaded by llama.cpp, on the CPU."""

    def __init__(self, path: Path, vocabulary: int, threads: int) -> None:
        llama_cpp = _quiet()
        self._api, self._vocabulary = llama_cpp, vocabulary
        llama_cpp.llama_backend_init()
        of_model = llama_cpp.llama_model_default_params()
        of_model.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), of_model)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_seq_max, options.kv_unified = SLOTS, ROWS, True
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._model or not self._context:
            raise RuntimeError(f"llama.cpp could not load {path}")
        self._batch = llama_cpp.llama_batch_init(SLOTS, 0, ROWS)

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
        everyone = list(range(len(prompts)))
        shared = len(common_prefix(prompts)) if len(prompts) > 1 else 0
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


_loaded: LoadedFile


def load(path: Path, vocabulary: int, threads: int) -> None:
    """Loads the file that this process answers from."""
    global _loaded
    _loaded = LoadedFile(path, vocabulary, threads)


def generate(prompts: Sequence[Sequence[int]], limit: int) -> Rows:
    return _loaded.generate(prompts, limit)


def prefill(prompts: Sequence[Sequence[int]]) -> list[np.ndarray[Any, Any]]:
    return _loaded.prefill(prompts)
