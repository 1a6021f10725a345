"""Settings: command line > environment `PACELINE_*` > TOML file > the defaults written here."""

from __future__ import annotations

import enum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Mode(enum.StrEnum):
    """How waiting requests join the running batch (see `policy`)."""

    SEQUENTIAL = "sequential"
    STATIC = "static"
    DYNAMIC = "dynamic"
    CONTINUOUS = "continuous"


class Admission(enum.StrEnum):
    """Who is refused although the queue has room (see `door`)."""

    BOUNDS = "bounds"
    DEADLINE = "deadline"


class EngineConfig(BaseModel):
    """What the scheduler is bound by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = Field(Mode.CONTINUOUS, description="batching mode")
    max_batch_size: int = Field(
        32, ge=1, le=4096, description="rows a step may hold; on a GPU 256 unless given"
    )
    max_wait_ms: float = Field(
        50.0, ge=0, le=60_000, description="how long static and dynamic wait for more"
    )
    max_step_tokens: int = Field(
        512, ge=16, description="tokens a step may compute (the budget); on a GPU 2048 unless given"
    )
    max_queue_requests: int = Field(1024, ge=1, description="waiting requests before refusing")
    max_queue_tokens: int = Field(
        262_144, ge=1, description="waiting prompt tokens before refusing"
    )
    max_queue_wait_s: float | None = Field(
        None, ge=0, description="estimated wait in the queue before refusing; unset: no bound"
    )
    admission: Admission = Field(
        Admission.BOUNDS,
        description="deadline: refuse at once what would still wait at its deadline",
    )
    ageing_s: float = Field(
        1.0, ge=0, description="seconds of waiting that make up for one step of priority"
    )
    page_size: int = Field(
        16,
        ge=1,
        le=1024,
        description="tokens of keys and values in a page; on a CPU 32 unless given",
    )
    prefix_cache: bool = Field(True, description="reuse pages of equal prefixes")
    launch_ahead: bool = Field(
        True,
        description="where the device computes beside Python: launch a step before reading the last one",
    )
    deterministic: bool = Field(
        False,
        description="a request's tokens and log-probabilities do not depend on its neighbours",
    )
    prefill_chunk: int = Field(
        128,
        ge=1,
        validate_default=True,
        description="tokens of a prompt chunk in deterministic mode",
    )

    @field_validator("prefill_chunk")
    @classmethod
    def _whole_pages(cls, value: int, info: ValidationInfo) -> int:
        # Pages of a prefix are reused by whole chunks.
        size = info.data.get("page_size", value)
        if info.data.get("deterministic") and value % size:
            raise ValueError(f"must be a multiple of page_size, {size}")
        return value


# Where hundreds of rows cost little more than one.
GPU_DEFAULTS = {"max_batch_size": 256, "max_step_tokens": 2048}
# What OpenVINO's kernels are written for.
CPU_DEFAULTS = {"page_size": 32}


class ModelConfig(BaseModel):
    """What is loaded, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(
        None,
        description="hub name, folder or GGUF file; unset: the embedded SmolLM2-135M-Instruct",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the device has it, else float32"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps, …")
    tensor_parallel: int = Field(
        1,
        ge=1,
        le=64,
        description="GPUs that each hold a part of every layer, for a model larger than one",
    )
    dummy_weights: str | None = Field(
        None,
        description="random weights of a shape (gpt2, smollm2-135m, llama-1b, llama-8b, config.json)",
    )
    max_context_tokens: int | None = Field(None, ge=16, description="unset: the model's own limit")
    kv_cache_mib: int | None = Field(
        None, ge=1, description="memory for pages; unset: from what is free"
    )
    num_threads: int | None = Field(None, ge=1, description="CPU threads; unset: physical cores")
    quantization: Literal["none", "int8", "fp8"] = Field(
        "none", description="format of the linear layers' weights: int8 on a CPU, fp8 on a GPU"
    )
    runtime: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="what computes on a CPU; auto: openvino where it is installed and can"
    )
    attention: Literal["auto", "sdpa", "triton"] = Field(
        "auto", description="attention kernel; auto: triton on a GPU, else sdpa"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="on a GPU, compile the model's layers; auto: those that fused_layers leaves",
    )
    fused_layers: bool = Field(
        True, description="on a GPU, compute Llama-like layers with kernels made for small batches"
    )
    cuda_graphs: bool = Field(True, description="capture each shape of a step as a CUDA graph")
    early_launch: bool = Field(
        True, description="let a kernel of few rows begin while the one before it ends"
    )
    allow_pickle: bool = Field(
        False, description="load weights from pickle files, too, where there are no safetensors"
    )
    trust_remote_code: bool = Field(
        False, description="run the Python code that some models bring along"
    )

    @field_validator("quantization", mode="before")
    @classmethod
    def _none_is_a_choice(cls, value: object) -> object:
        """The word that switches other settings off is a value here."""
        return "none" if value is None else value


class ServeConfig(EngineConfig, ModelConfig):
    """Everything `paceline serve` takes."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    http_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of the OpenAI-compatible API (extra `http`), at the same address; unset: none",
    )
    insecure: bool = Field(
        False, description="allow an address other machines can reach, without encryption"
    )
    tls_cert: str | None = Field(
        None, description="PEM file of the server's certificate chain; read again when it changes"
    )
    tls_key: str | None = Field(None, description="PEM file of its private key")
    tls_client_ca: str | None = Field(
        None, description="PEM file: only clients with a certificate of these authorities get in"
    )
    tokens: str | None = Field(
        None,
        description="file of bearer tokens (see `paceline token`); without one of them nobody gets in",
    )
    metrics_host: str = Field(
        "127.0.0.1", description="address of /metrics and the status page, which is plain HTTP"
    )
    metrics_port: int | None = Field(
        9090,
        ge=0,
        le=65535,
        description="port of /metrics and the status page; none switches it off",
    )
    playground: bool = Field(
        True, description="let the status page send prompts, where only this machine reaches it"
    )
    default_max_tokens: int = Field(
        256, ge=1, description="max_tokens where a request does not say"
    )
    drain_timeout_s: float = Field(30.0, ge=0, description="how long SIGTERM lets requests finish")
    drain_delay_s: float = Field(
        0.0,
        ge=0,
        description="NOT_SERVING this long before refusing, for load balancers",
    )
    step_timeout_s: float | None = Field(
        120.0,
        gt=0,
        description="with front ends: an engine whose step takes longer is restarted; none: it may hang",
    )
    frontends: int | None = Field(
        None,
        ge=0,
        le=64,
        description="gRPC processes beside the engine's; 0: one process does all; unset: by the device",
    )
    replicas: int = Field(
        1,
        ge=1,
        le=64,
        description="engines behind the port, one for each GPU; on a CPU they share its cores",
    )
    max_connection_age_s: float | None = Field(
        1800.0,
        ge=1,
        le=1e6,
        description="clients connect anew after this long, so that balancers can move them; none: never",
    )
    max_connection_age_grace_s: float | None = Field(
        None, ge=0, le=1e6, description="then running calls end within this; unset: they all finish"
    )
    reflection: bool = Field(True, description="offer gRPC reflection")
    mock: bool = Field(
        False, description="serve scripted tokens, without model and torch, to measure clients"
    )
    mock_tokens_per_s: float = Field(
        50.0, ge=0, le=10_000, description="pace of each of the mock's streams; 0: all it can"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="log level")
    log_format: Literal["text", "json"] = Field(
        "text", description="how standard error is written; json: one object a line"
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="where traces go, for example http://localhost:4317; needs paceline[otel]",
    )
