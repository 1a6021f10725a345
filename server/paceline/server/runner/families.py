"""Which architectures are served: those whose batched output is tested against transformers, token by token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedConfig

from ..errors import SetupError

FAMILIES = (
    "llama",
    "gpt2",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi",
    "gpt_neox",
    "opt",
)
_LAYER_TYPES = {"full_attention", "sliding_attention"}
# Their frequencies follow the longest sequence of a call, so a batch mate would change a request's tokens.
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}


def check_family(model_type: str | None) -> None:
    """Refuses an architecture by its name alone. Raises SetupError."""
    if model_type not in FAMILIES:
        supported = ", ".join(FAMILIES)
        raise SetupError(
            f"architecture {model_type!r} is not supported; supported architectures: {supported}"
        )


def check_supported(config: PreTrainedConfig) -> None:
    """Refuses what a packed batch cannot compute exactly. Raises SetupError with one line."""
    check_family(config.model_type)
    if problem := _problem(config):
        raise SetupError(f"this {config.model_type} model is not supported: {problem}")


def _problem(config: PreTrainedConfig) -> str | None:
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    if getattr(config, "add_cross_attention", False):
        return "it has cross-attention"
    if getattr(config, "use_bidirectional_attention", False):
        return "its attention is bidirectional"
    if unknown := set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES:
        return f"it has layers of type {', '.join(sorted(unknown))}"
    rope = _rope_types(getattr(config, "rope_parameters", None) or {})
    if varying := _LENGTH_DEPENDENT_ROPE.intersection(rope):
        return f"its rotary embedding ({', '.join(sorted(varying))}) depends on batch mates"
    if getattr(config, "quantization_config", None) is not None:
        return "its weights are quantized; use a GGUF file or the unquantized weights"
    return None


def _rope_types(parameters: dict[str, Any]) -> Iterable[str]:
    """The type of the one rotary embedding, or those of each layer type."""
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return [str(entry.get("rope_type", "default")) for entry in nested or [parameters]]
