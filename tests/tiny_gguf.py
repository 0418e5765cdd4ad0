"""The tiny model as a GGUF file, with its matrices quantised as Q8_0, written apart from transformers."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file

Q8 = gguf.GGMLQuantizationType.Q8_0
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def write_tiny_gguf(
    folder: Path, file: Path, *, leave_out: str = "", more: str = "", metadata: Mapping[str, float] | None = None
) -> dict[str, np.ndarray]:
    """Writes ``folder``'s Llama and tokenizer; returns the weights that a reader should find, by their names there.

    Args:
        leave_out: a tensor's name in GGUF that is not written.
        more: one that is written beside the model's own.
        metadata: fields that are written beside the model's own.
    """
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    for key, value in (metadata or {}).items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(key, value)
    _add_tokenizer(writer, tokenizer)
    read = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        called = _called(name)
        read[name] = weight
        if weight.ndim == 2:
            read[name] = dequantize(quantize(weight, Q8), Q8)
        if called == leave_out:
            continue
        if weight.ndim == 1:
            writer.add_tensor(called, weight)
        else:
            writer.add_tensor(called, quantize(_rotated(weight, called, config), Q8), raw_dtype=Q8)
    if more:
        writer.add_tensor(more, np.ones(8, dtype=np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return read


def write_metadata(file: Path, kind: str, fields: Mapping[str, int | float]) -> None:
    """Writes a file without tensors, which says what a model of the family ``kind`` has and ``fields`` besides."""
    writer = gguf.GGUFWriter(file, kind)
    writer.add_context_length(4096)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_key_length(256 if kind.startswith("gemma") else 16)  # of all whose scores are divided by 16
    writer.add_vocab_size(320)
    for key, value in fields.items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(f"{kind}.{key}", value)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()


def _called(name: str) -> str:
    if name in OUTER or name == "lm_head.weight":
        return OUTER.get(name, "output.weight")
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def _rotated(weight: np.ndarray, called: str, config) -> np.ndarray:
    """GGUF's Llama pairs neighbouring channels of a head where Hugging Face's pairs its two halves."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(called.split(".")[-2])
    if heads is None:
        return weight
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer) -> None:
    import json

    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    kinds = [
        gguf.TokenType.CONTROL if token in tokenizer.all_special_tokens else gguf.TokenType.NORMAL for token in tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(CHAT)
