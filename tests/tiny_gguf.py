"""Writes a tiny GGUF file as llama.cpp's tools would, and the model that must come out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

from tiny_models import tiny_model

# Of each layer, by the names of both sides.
_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Printable ASCII, where an id is its character's code less 33, and two merges.
_TOKENS = [*(chr(code) for code in range(33, 127)), "ab", "bc"]


def write_gguf(path: Path, *, quantized: bool) -> PreTrainedModel:
    """A Qwen2 model, in 8-bit blocks or as it is; what comes back has the weights that the file holds."""
    config, model = tiny_model(
        "qwen2",
        vocab_size=len(_TOKENS),
        hidden_size=64,
        intermediate_size=96,
        use_sliding_window=False,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
    )
    writer: Any = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(_TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(_TOKENS)
    writer.add_token_types([1] * len(_TOKENS))
    writer.add_token_merges(["a b", "b c"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for ours, theirs in _names(config.num_hidden_layers):
        _add(writer, ours, model.get_parameter(theirs), quantized=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _names(num_layers: int) -> list[tuple[str, str]]:
    names = [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
    ]
    for layer in range(num_layers):
        for ours, theirs in _LAYER.items():
            kinds = ("weight", "bias") if ours in ("attn_q", "attn_k", "attn_v") else ("weight",)
            names += [
                (f"blk.{layer}.{ours}.{k}", f"model.layers.{layer}.{theirs}.{k}") for k in kinds
            ]
    return names


def _add(writer: Any, name: str, parameter: torch.nn.Parameter, *, quantized: bool) -> None:
    values = parameter.detach().numpy().astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    if not quantized or values.ndim == 1 or values.shape[1] % 32:
        writer.add_tensor(name, values)
        return
    blocks = gguf.quants.quantize(values, kind)
    writer.add_tensor(name, blocks, raw_dtype=kind)
    parameter.data.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, kind)))
