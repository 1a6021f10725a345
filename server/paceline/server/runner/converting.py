"""GGUF weights, unpacked to what torch computes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .quiet import quiet


def gguf_arguments(file: Path) -> dict[str, Any]:
    """Arguments of `from_pretrained(file.parent, …)` that load `file` with its weights unpacked.

    transformers 5.23 and later keep GGUF weights packed unless told otherwise; earlier ones always unpack.
    """
    import transformers

    arguments: dict[str, Any] = {"gguf_file": file.name}
    gguf_config = getattr(transformers, "GgufConfig", None)
    if gguf_config is not None:
        arguments["quantization_config"] = gguf_config(dequantize=True)
    return arguments


def convert(gguf: Path, folder: Path) -> None:
    """Writes the model of a GGUF file to `folder`: bfloat16 safetensors, tokenizer, chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # takes seconds

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.bfloat16, **gguf_arguments(gguf)
        )
        model.save_pretrained(folder)
        del model
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
