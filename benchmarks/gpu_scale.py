"""How much `gpu.py` measures: the real thing, and a tiny one that proves every path on a CPU."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

WORKLOADS = "benchmarks/workloads"  # from the root of the repository, where commands run
_TINY_MODEL = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of every part. Lengths are tokens, times seconds."""

    workload: str = f"{WORKLOADS}/mixed512.jsonl"
    dtype: str = "bfloat16"
    device: str = "auto"
    gpus: int = 1
    rows: int = 256
    context: int = 1024  # longest request of the workload: 768
    step_tokens: int = 2048
    baseline_s: float = 8.0  # of each of transformers' own ways
    baseline_rows: int = 32
    peer_requests: int = 128  # of transformers' continuous batching
    peer_s: float = 40.0
    sequential_requests: int = 2  # a full pass one by one would take half an hour
    step_rows: tuple[int, ...] = (1, 8, 64, 256)
    prompt: int = 64
    output: int = 128
    growth_rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    growth_contexts: tuple[int, ...] = (256, 1024, 2048, 4096, 8192)
    context_rows: tuple[int, ...] = (1, 16)
    long_context: int = 8192
    long_step_tokens: int = 8192
    profile_rows: str = "1,64,256"
    levels: str = "1,16,64,256"
    stream_prompt: int = 128
    stream_output: int = 128
    requests_per_stream: int = 10
    min_requests: int = 30
    targets: int = 8
    copy_mib: int = 2048
    matmul_size: int = 8192


def smoke(folder: Path) -> tuple[str, Scale]:
    """A model's config.json and a scale to go with it, in `folder`."""
    model = folder / "tiny" / "config.json"
    model.parent.mkdir()
    model.write_text(json.dumps(_TINY_MODEL))
    workload = folder / "workload.jsonl"
    draw = Random(0)
    with workload.open("w") as file:
        for number in range(6):
            line = {
                "id": str(number),
                "prompt_ids": [draw.randrange(3, 512) for _ in range(draw.randint(2, 12))],
                "max_tokens": draw.randint(3, 9),
                "ignore_eos": True,
                "temperature": 0,
            }
            file.write(json.dumps(line) + "\n")
    scale = replace(
        Scale(),
        workload=str(workload),
        dtype="float32",
        device="cpu",
        rows=4,
        context=256,
        step_tokens=64,
        baseline_s=1.0,
        baseline_rows=2,
        peer_requests=3,
        peer_s=10.0,
        sequential_requests=2,
        step_rows=(1, 2),
        prompt=8,
        output=12,
        growth_rows=(1, 4),
        growth_contexts=(96,),
        context_rows=(2,),
        long_context=256,
        long_step_tokens=64,
        profile_rows="2",
        levels="1,4",
        stream_prompt=8,
        stream_output=8,
        requests_per_stream=2,
        min_requests=2,
        targets=2,
        copy_mib=4,
        matmul_size=64,
    )
    return str(model), scale
