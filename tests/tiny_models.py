"""Tiny random models, one per checked family, with the traits that break batching.

Those are grouped heads, short windows, soft-caps, partial rotation. Weights are drawn wider than
transformers does, so that attention matters: at the usual 0.02 a tied model repeats its last token
whatever came before, and a test against it could not fail.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from paceline.server.request import ModelInfo
from paceline.server.runner.dummy import byte_tokenizer
from paceline.server.runner.quiet import quiet

VOCAB_SIZE = 260
BOS, EOS, PAD = 256, 257, 258
MAX_POSITIONS = 256
WINDOW = 8

_SHAPE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_POSITIONS,
}
_GROUPED = _SHAPE | {"num_key_value_heads": 2}

# What each family needs beyond the vocabulary and the special tokens.
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "gpt2": {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": MAX_POSITIONS},
    "mistral": _GROUPED | {"sliding_window": WINDOW},
    "qwen2": _GROUPED
    | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": _GROUPED
    | {
        "head_dim": 16,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 2,
    },
    "gemma2": _GROUPED
    | {
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": WINDOW,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 5.0,
    },
    "gemma3_text": _GROUPED
    | {
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 2,
    },
    "phi": _GROUPED | {"partial_rotary_factor": 0.5, "qk_layernorm": True},
    "gpt_neox": _SHAPE | {"rotary_pct": 0.5},
    "opt": {
        "hidden_size": 48,
        "word_embed_proj_dim": 32,
        "ffn_dim": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_POSITIONS,
    },
}
FAMILIES = tuple(_FAMILIES)


def tiny_config(family: str, **overrides: Any) -> PreTrainedConfig:
    """The configuration of `family` with a vocabulary of 260: 256 bytes and four special ids."""
    settings = {
        "vocab_size": VOCAB_SIZE,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        **_FAMILIES[family],
        **overrides,
    }
    return AutoConfig.for_model(family, **settings)


def tiny_model(
    family: str, seed: int = 0, **overrides: Any
) -> tuple[PreTrainedConfig, PreTrainedModel]:
    """A float32 model of `family` with seeded weights; `overrides` go to its configuration."""
    config = tiny_config(family, **overrides)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    _randomise(model, torch.Generator().manual_seed(seed))
    return config, model


def save_tiny_model(family: str, folder: Path, **overrides: Any) -> PreTrainedModel:
    """Writes a tiny model with a tokenizer of bytes to `folder`, as `--model` takes it, and returns it."""
    config, model = tiny_model(family, **overrides)
    with quiet():
        model.save_pretrained(folder)
        byte_tokenizer(config).save_pretrained(folder)
    return model


def _randomise(model: PreTrainedModel, generator: torch.Generator) -> None:
    # Gemma multiplies embeddings by sqrt(hidden size) and norms what its layers add: without this
    # the prompt's last token outweighs the layers, and the tied head repeats it.
    gemma = model.config.model_type.startswith("gemma")
    embedding_spread = model.config.hidden_size**-0.5 if gemma else 1.0
    model.requires_grad_(False)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() == 1:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
            if gemma and "layers" in name and "post_" in name:
                parameter.add_(3.0)
            continue
        embedding = any(part in name for part in ("embed", "wte", "wpe"))
        parameter.normal_(0.0, embedding_spread if embedding else 0.3, generator=generator)


def model_info(family: str, model: PreTrainedModel) -> ModelInfo:
    """What a loaded tiny model is described by."""
    return ModelInfo(
        name=family,
        architecture=family,
        num_parameters=0,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        vocab_size=model.config.vocab_size,
        max_context_tokens=MAX_POSITIONS,
        eos_token_ids=(EOS,),
        num_layers=3,
        hidden_size=48,
    )


def greedy_reference(
    model: PreTrainedModel, prompt_ids: list[int], max_tokens: int, *, ignore_eos: bool = True
) -> list[int]:
    """What transformers' own `generate()` continues this one prompt with, greedily: the oracle."""
    ids = torch.tensor([prompt_ids], device=model.device)
    stop = {"min_new_tokens": max_tokens, "eos_token_id": None} if ignore_eos else {}
    generate: Any = model.generate  # lost to the type checker behind a decorator
    output = generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=PAD,
        **stop,
    )
    return [int(token) for token in output[0, len(prompt_ids) :]]


@cache
def mixed_work() -> list[tuple[list[int], int]]:
    """Prompts of 1 to 60 tokens, the middle ones with a long common prefix; output lengths of 8 to 24 tokens."""
    rng = random.Random(7)
    prompts = [[rng.randrange(256) for _ in range(rng.randint(1, 60))] for _ in range(10)]
    common = [rng.randrange(256) for _ in range(37)]
    prompts[7:7] = [common + prompt[:5] for prompt in prompts[2::-1]]
    return [(prompt, rng.randint(8, 24)) for prompt in prompts]


@cache
def references(family: str) -> list[list[int]]:
    """What `generate()` makes of the mixed work; once for all tests."""
    torch.set_num_threads(1)
    _, model = tiny_model(family)
    return [greedy_reference(model, prompt, length) for prompt, length in mixed_work()]
