"""How a linear layer of few rows is cut into programs: the choices, and which one is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Op = Literal["linear_residual", "norm_linear", "norm_gated", "output"]

ROW_BUCKETS = (1, 16, 32, 64)
MULTIPROCESSORS = 132  # of a Hopper GPU; the guess is for that size
SMALL_BYTES = 8 << 20  # a layer whose weights are read in the time of a launch or two
LARGE_BYTES = 32 << 20  # weights that would push everything else out of the L2 cache
_HUGE_BYTES = 512 << 20
_NARROW = 32  # outputs of a program that are not made fewer for want of memory


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer with what is fused to it. `n` counts outputs: the weights of `norm_gated` are `[2n, k]`.

    `output` is a `norm_linear` whose outputs are the vocabulary.
    """

    op: Op
    n: int
    k: int
    element_bytes: int = 2  # of a weight; 1 is fp8

    @property
    def weight_rows(self) -> int:
        return 2 * self.n if self.op == "norm_gated" else self.n

    @property
    def weight_bytes(self) -> int:
        return self.weight_rows * self.k * self.element_bytes

    @property
    def has_norm(self) -> bool:
        return self.op in ("norm_linear", "norm_gated", "output")

    @property
    def narrows(self) -> bool:
        """Whether it has far fewer outputs than inputs, as a down projection."""
        return self.k > 2 * self.n


@dataclass(frozen=True, slots=True)
class Config:
    """One way to run a layer.

    Attributes:
        kind: "dot" multiplies tiles on tensor cores, "vec" row by row without them, "torch" is `F.linear`.
        block_n, block_k: outputs of a program, and how much of K it holds at a time; powers of two.
        split_k: programs that share one tile's K.
        num_stages: blocks in flight.
        fuse_norm: the norm is computed by each program anew, else by a small kernel before.
    """

    kind: Literal["dot", "vec", "torch"] = "dot"
    block_n: int = 16
    block_k: int = 256
    split_k: int = 1
    num_warps: int = 4
    num_stages: int = 4
    fuse_norm: bool = True

    def __post_init__(self) -> None:
        sizes = (self.block_n, self.block_k, self.num_warps)
        if any(size < 1 or size & (size - 1) for size in sizes):
            raise ValueError(f"block sizes and warps must be powers of two: {self}")
        if self.split_k < 1 or self.num_stages < 1 or self.block_k < 16:
            raise ValueError(f"too small: {self}")
        if self.kind == "dot" and self.block_n < 16:
            raise ValueError(f"tensor cores need 16 columns: {self}")


TORCH = Config(kind="torch")


def row_bucket(m: int) -> int:
    """The rows that a layer is compiled for: the next of 1, 16, 32, 64; beyond, tiles of 64."""
    return next((bucket for bucket in ROW_BUCKETS if m <= bucket), ROW_BUCKETS[-1])


def block_m(m: int, config: Config) -> int:
    return 1 if config.kind == "vec" else max(16, row_bucket(m))


class Cut(NamedTuple):
    """A program's tiles: so many outputs, along K in blocks with several in flight, and what is left behind them."""

    block_n: int
    block_k: int
    tail: int  # 0 where K is a multiple of a block
    stages: int


def cut(
    config: Config, k: int, row_bytes: int, output_bytes: int, room: int, least: int = 16
) -> Cut:
    """As the config says, or smaller where a GPU has not the shared memory for it: first narrower, then shorter.

    Args:
        row_bytes: of a program's rows, for one place of K.
        output_bytes: of the weights of one output, for one place of K.
        room: bytes of shared memory for one program. All that is in flight is counted to it, which is more than
            what Triton takes.
        least: places of K that are multiplied at a time.
    """
    block_n, block_k = config.block_n, max(least, min(config.block_k, power_of_two(k)))
    while True:
        rest = k % block_k
        tail = max(least, power_of_two(rest, up=True)) if rest else 0
        place = row_bytes + block_n * output_bytes
        stages = room // (block_k * place)
        at_once = k // block_k == 1 and config.split_k == 1
        fits = (block_k + tail) * place <= room if at_once else stages >= min(3, config.num_stages)
        if fits or (block_n <= _NARROW and block_k == least):
            return Cut(block_n, block_k, tail, max(1, min(config.num_stages, stages)))
        if block_n > _NARROW:
            block_n //= 2
        else:
            block_k //= 2


def power_of_two(n: int, *, up: bool = False) -> int:
    """The nearest power of two not above `n`, or not below."""
    return 1 << (n - 1).bit_length() if up else 1 << (n.bit_length() - 1)


def pick(layer: Layer, m: int) -> Config:
    """The best guess for `m` rows: what searches by `benchmarks/layers.py` found fastest on an H200, by kind of layer.

    Layers of 135M, 1B and 8B were measured; for other sizes it is a guess. Several rows of a large layer take
    most of a multiprocessor's shared memory: programs that start early (`triton_early`) meet a GPU that is not empty,
    and where many fit they crowd on few multiprocessors.
    """
    bucket, small = row_bucket(m), layer.weight_bytes < SMALL_BYTES
    if layer.op == "output":
        return _pick_output(layer, bucket)
    if bucket == 1:
        return _pick_one_row(layer, small)
    if layer.element_bytes == 1:
        return _pick_fp8(layer, bucket, small)
    if small:
        return _pick_small(layer, bucket)
    return _pick_large(layer, bucket)


def _pick_one_row(layer: Layer, small: bool) -> Config:
    if layer.element_bytes == 1:
        if layer.narrows:
            return Config("vec", 8, 1024, num_stages=3)
        return Config("vec", 8, 512, num_stages=4, fuse_norm=not layer.has_norm)
    if small and layer.op == "norm_gated":
        return Config("vec", 1, 1024, num_warps=1, num_stages=2)
    if small and layer.k > 1024:
        return Config("vec", 2, 1024, num_warps=2, num_stages=2)
    if small:
        return Config("vec", 2, 512, num_warps=1, num_stages=2)
    if layer.k < 4096 or layer.n < 4096:
        return Config("vec", 2, 2048, num_stages=3)
    # The norm comes before: each program would read all of the row once more for it.
    if layer.op == "norm_gated":
        return Config("vec", 1, 4096, num_warps=8, num_stages=3, fuse_norm=False)
    if layer.has_norm:
        return Config("vec", 4, 1024, num_stages=3, fuse_norm=False)
    return Config("vec", 8, 512, num_stages=4)


def _pick_small(layer: Layer, bucket: int) -> Config:
    if layer.op == "norm_gated" and bucket == 16:
        return Config("dot", 32, 512, num_warps=8, num_stages=3)
    if layer.op == "norm_gated" or (layer.has_norm and bucket == 64):
        return Config("dot", 16, 256, num_stages=3, fuse_norm=False)
    if layer.op == "norm_linear":
        return Config("dot", 16, 512, num_warps=4 if bucket == 16 else 8, num_stages=3)
    if layer.k > 1024:
        return Config("dot", 16, 256, split_k=2, num_stages=4)
    return Config("dot", 16, 512, num_stages=3)


def _pick_large(layer: Layer, bucket: int) -> Config:
    if layer.op == "norm_gated":
        if bucket == 64:
            return Config("dot", 64, 128, num_stages=3, fuse_norm=False)
        if layer.n >= 96 * MULTIPROCESSORS:
            return Config("dot", 128, 128, num_warps=8, num_stages=3, fuse_norm=False)
        return TORCH if bucket == 16 else Config("dot", 32, 128, num_stages=5, fuse_norm=False)
    if layer.op == "linear_residual":
        # Half as many programs as multiprocessors, each with a long way along K: two share it.
        split = 2 if layer.n <= 16 * MULTIPROCESSORS and layer.narrows else 1
        if bucket == 64:
            return Config("dot", 32, 128, split, num_stages=8 if split == 1 else 5)
        return Config("dot", 32, 256, split, num_stages=6 if split == 1 else 5)
    wide = layer.n >= 32 * MULTIPROCESSORS
    if bucket == 64:
        return Config("dot", 64 if wide else 32, 128, num_stages=6 if wide else 8, fuse_norm=False)
    if wide:
        return Config("dot", 64, 128, num_stages=8, fuse_norm=False)
    return Config("dot", 32, 256, num_stages=5, fuse_norm=False)


def _pick_fp8(layer: Layer, bucket: int, small: bool) -> Config:
    """Beyond 32 rows torch's product of fp8 is the faster one."""
    if bucket == 64:
        return TORCH
    if small:  # not measured: as many programs as in bfloat16
        return Config("dot", 16 if layer.n < 32 * MULTIPROCESSORS else 32, 256)
    if layer.op == "norm_gated":
        return Config("dot", 64, 256, num_warps=8, num_stages=4 if bucket == 16 else 3)
    if bucket == 32:
        return Config("dot", 32, 256, split_k=2, num_stages=3)
    if layer.op == "linear_residual" and not layer.narrows:
        return Config("dot", 32, 256, split_k=2, num_stages=10)
    return Config("dot", 64, 256, split_k=2 if layer.narrows else 1, num_warps=8, num_stages=6)


def _pick_output(layer: Layer, bucket: int) -> Config:
    """Of an output matrix: what was fastest on an H100 when such products were timed alone, not in a step."""
    fuse = not layer.has_norm
    if bucket == 1:
        return Config("vec", 4, 1024, num_stages=3, fuse_norm=fuse or layer.k < 4096)
    if layer.weight_bytes < _HUGE_BYTES:
        return TORCH
    return Config("dot", 32, 256 if bucket == 16 else 128, fuse_norm=fuse)
