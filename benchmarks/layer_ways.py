"""The ways to run a layer of few rows that are worth measuring. Nothing is run here, so no GPU is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from paceline.server.runner.linear_configs import (
    SMALL_BYTES,
    TORCH,
    Config,
    Layer,
    block_m,
    pick,
    row_bucket,
)

# Of shared memory, all that is in flight counted: more than half of a multiprocessor's, so that few programs fit, and
# all that a program gets.
ABOVE_BYTES, MOST_BYTES = 114 << 10, 222 << 10
LEAST_STAGES, MOST_STAGES = 3, 12
LEAST_TILE, MOST_TILE = 4096, 16384  # weights that a program multiplies at a time
MOST_WARPS = 8


def layers_of(config: Any, element_bytes: int) -> dict[str, Layer]:
    """The four products of a decoder layer, by transformers' configuration of the model."""
    hidden, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    dim = getattr(config, "head_dim", None) or hidden // heads
    qkv = (heads + 2 * config.num_key_value_heads) * dim
    return {
        "qkv": Layer("norm_linear", qkv, hidden, element_bytes),
        "o": Layer("linear_residual", hidden, heads * dim, element_bytes),
        "gate_up": Layer("norm_gated", inner, hidden, element_bytes),
        "down": Layer("linear_residual", hidden, inner, element_bytes),
    }


def ways(layer: Layer, m: int) -> list[Config]:
    """The built-in choice, torch's product where there are several rows, then the others; none of them twice."""
    found = [pick(layer, m)]
    if row_bucket(m) == 1:
        found += _one_row(layer)
    else:
        found += [TORCH, *(_small(layer) if _is_small(layer) else _large(layer, m))]
    once: dict[Config, Config] = {}
    for config in found:
        once.setdefault(as_run(config, layer), config)
    return list(once.values())


def as_run(config: Config, layer: Layer) -> Config:
    """The config by what it comes to: a block ends with K, and some norms are always, or never, in the kernel."""
    if config == TORCH:
        return config
    rounds_rows = layer.element_bytes == 1 and config.kind == "dot"  # which norms them too
    return replace(
        config,
        block_k=min(config.block_k, 1 << (layer.k.bit_length() - 1)),
        fuse_norm=config.fuse_norm or rounds_rows or not layer.has_norm,
    )


def _one_row(layer: Layer) -> Iterator[Config]:
    """Tiles of 4 or 8 KiB, of which each warp reads 1 or 2; small layers have less to read."""
    small = _is_small(layer)
    widest, tiles_kib = (2048, (2, 4, 8)) if small else (4096, (4, 8))
    for tile_kib, block_n in product(tiles_kib, (1, 2, 4, 8)):
        block_k = (tile_kib << 10) // layer.element_bytes // block_n
        if not 512 <= block_k <= widest:
            continue
        stages = 2 if small else 3 if block_k >= 1024 else 4
        for warps, fuse in product((tile_kib // 2, tile_kib), _fusing(layer)):
            yield Config("vec", block_n, block_k, 1, warps, stages, fuse)


def _small(layer: Layer) -> Iterator[Config]:
    """Several rows of a layer whose programs are many for its size, and hold much of K at once."""
    for block_n, block_k in _tiles((16, 32), (128, 256, 512, 1024)):
        stages = 3 if block_k >= 512 else 4
        warps = (block_n * block_k // each for each in (2048, 1024))
        fitting = [count for count in warps if count <= MOST_WARPS]
        for count, split, fuse in product(fitting, _splits(layer, block_k), _fusing(layer)):
            yield Config("dot", block_n, block_k, split, count, stages, fuse)


def _large(layer: Layer, m: int) -> Iterator[Config]:
    """Several rows, the norm before: each program would read all of them again."""
    for block_n, block_k in _tiles((16, 32, 64, 128), (128, 256, 512)):
        warps = max(4, block_n * block_k // 2048)
        for split in _splits(layer, block_k):
            for stages in _stages(layer, m, block_n, block_k)[: 1 if split > 1 else 2]:
                yield Config("dot", block_n, block_k, split, warps, stages, not layer.has_norm)


def _tiles(ns: tuple[int, ...], ks: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(n, k) for n, k in product(ns, ks) if LEAST_TILE <= n * k <= MOST_TILE]


def _stages(layer: Layer, m: int, block_n: int, block_k: int) -> list[int]:
    """The fewest and the most blocks in flight with which a program takes most of a multiprocessor."""
    columns = 2 * block_n if layer.op == "norm_gated" else block_n
    stage_bytes = (columns + block_m(m, Config())) * block_k * layer.element_bytes
    fewest = max(LEAST_STAGES, ABOVE_BYTES // stage_bytes + 1)
    most = min(MOST_STAGES, MOST_BYTES // stage_bytes)
    return sorted({fewest, most}) if fewest <= most else []


def _splits(layer: Layer, block_k: int) -> tuple[int, ...]:
    """Two programs share a tile where each has two blocks of K at least; a layer with a norm is wide enough."""
    return (1, 2) if layer.op == "linear_residual" and layer.k >= 4 * block_k else (1,)


def _fusing(layer: Layer) -> tuple[bool, ...]:
    return (True, False) if layer.has_norm else (True,)


def _is_small(layer: Layer) -> bool:
    return layer.weight_bytes < SMALL_BYTES
