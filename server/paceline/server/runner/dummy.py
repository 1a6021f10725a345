"""Random weights of a named shape: speed can be measured with nothing to download. The text is noise."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerFast as FastTokenizer

from ..errors import SetupError
from .families import check_family

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LLAMA3 = {
    "model_type": "llama",
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}
# As published: openai-community/gpt2, HuggingFaceTB/SmolLM2-135M-Instruct, meta-llama/Llama-3.2-1B, Llama-3.1-8B.
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2"},
    "smollm2-135m": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "llama-1b": _LLAMA3
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "rope_parameters": _LLAMA3_ROPE | {"factor": 32.0},
        "tie_word_embeddings": True,
    },
    "llama-8b": _LLAMA3
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "head_dim": 128,
        "rope_parameters": _LLAMA3_ROPE | {"factor": 8.0},
        "tie_word_embeddings": False,
    },
}


def shape_name(shape: str) -> str:
    """A short name of `shape`; a config.json goes by its folder's name."""
    return shape if shape in SHAPES else Path(shape).resolve().parent.name


def shape_config(shape: str) -> PreTrainedConfig:
    """The configuration of a named shape, or of a config.json file. Raises SetupError."""
    settings = SHAPES.get(shape) or _read_settings(Path(shape).expanduser())
    model_type = settings.get("model_type")
    check_family(model_type)
    assert model_type is not None
    kept = {key: value for key, value in settings.items() if key not in ("model_type", "auto_map")}
    try:
        return AutoConfig.for_model(model_type, **kept)
    except (ValueError, TypeError, KeyError) as exc:
        first = (str(exc).splitlines() or [""])[0]
        raise SetupError(f"--dummy-weights {shape}: not a valid configuration: {first}") from exc


def _read_settings(path: Path) -> dict[str, Any]:
    problem = f"--dummy-weights takes {', '.join(SHAPES)} or a config.json file, not {str(path)!r}"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SetupError(problem) from exc
    if not isinstance(settings, dict):
        raise SetupError(problem)
    return settings


def build(
    config: PreTrainedConfig, device: torch.device, dtype: torch.dtype, attention: str | None
) -> PreTrainedModel:
    """A model with seeded random weights, made in `dtype` on `device`: nothing larger exists on the way."""
    chosen = {} if attention is None else {"attn_implementation": attention}
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, **chosen)
    model.to_empty(device=device)
    model.tie_weights()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        model.init_weights()
    return model


def byte_tokenizer(config: PreTrainedConfig) -> FastTokenizer:
    """A tokenizer for a vocabulary nobody trained: text becomes its UTF-8 bytes, a byte's id is its value.

    Special ids among the first 256 move the bytes after them up. Ids beyond the bytes are never encoded to;
    they decode to their number, so that random output reads as text.
    """
    special = {name: _first(getattr(config, f"{name}_id", None)) for name in _SPECIAL}
    taken = {token: f"<|{name}|>" for name, token in special.items() if token is not None}
    free = [token for token in range(config.vocab_size) if token not in taken]
    alphabet = _byte_characters()
    if len(free) < len(alphabet):
        raise SetupError(f"a vocabulary of {config.vocab_size} is too small for the 256 bytes")
    vocabulary = dict(zip(alphabet, free, strict=False))
    vocabulary |= {f"Ġ{token}": token for token in free[len(alphabet) :]}
    vocabulary |= {text: token for token, text in taken.items()}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in taken.values()])
    named = {name: taken[token] for name, token in special.items() if token is not None}
    return FastTokenizer(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)


def _byte_characters() -> list[str]:
    """How byte-level tokenizers write each byte: as its Latin-1 character where that shows, else from U+0100 on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]


_SPECIAL = ("bos_token", "eos_token", "pad_token")


def _first(token: int | Iterable[int] | None) -> int | None:
    return next(iter(token), None) if isinstance(token, Iterable) else token
