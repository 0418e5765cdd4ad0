"""llama.cpp beside ours: the same weights through a GGUF file, the same prompts as token ids, as many threads.

It runs in a process of its own (:mod:`.llama_worker`): its products and ours each set up the processor's tile registers
(AMX), and a fault of its may end that process, not the bench.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from litestage.bench import llama_worker
from litestage.bench.rivals import Rows
from litestage.errors import LiteStageError

T = TypeVar("T")


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


def write_quantised(path: Path, kind: str, to: Path) -> None:
    """Writes a GGUF file anew with its weights in fewer bits, by llama.cpp: ``Q8_0``, ``Q4_0``, ``Q4_K_M``.

    Raises:
        LiteStageError: llama.cpp could not.
    """
    with _process() as process:
        _result(process, llama_worker.quantise, path, kind, to, torch.get_num_threads())


class Llama:
    """A GGUF file loaded by llama.cpp, on the CPU, with as many threads as ours.

    Raises:
        LiteStageError: here and in every call: its process died, or it could not do what it was asked.
    """

    def __init__(self, path: Path, vocabulary: int) -> None:
        self._process = _process()
        _result(self._process, llama_worker.load, path, vocabulary, torch.get_num_threads())

    def close(self) -> None:
        self._process.shutdown()

    def generate(self, prompts: Sequence[Sequence[int]], limit: int) -> Rows:
        """``limit`` new tokens of each prompt, greedy."""
        return _result(self._process, llama_worker.generate, prompts, limit)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[np.ndarray[Any, Any]]:
        """The logits of each prompt's next token."""
        return _result(self._process, llama_worker.prefill, prompts)


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _result(process: ProcessPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
    try:
        return process.submit(function, *arguments).result()
    except RuntimeError as error:  # a process that died is one too
        raise LiteStageError(f"llama.cpp: {error}") from error
