"""What `noise` and `drawing` do, in kernels: a row's share, and probabilities as whole numbers."""

from __future__ import annotations

import triton
import triton.language as tl

from .noise import SHARE_BITS

_LIMB_BITS = tl.constexpr(SHARE_BITS // 2)
_LIMB = tl.constexpr(2 ** (SHARE_BITS // 2) - 1)
_GAMMA = tl.constexpr(0x9E3779B97F4A7C15)


@triton.jit
def share(seed, position):
    """`noise.share` of a seed's 64 bits."""
    stream = _mix(seed.to(tl.uint64, bitcast=True) + _GAMMA)
    mixed = _mix(stream + (position.to(tl.uint64) + 1) * _GAMMA)
    return (mixed >> 2).to(tl.int64)


@triton.jit
def _mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def part_of(total, part):
    """`drawing.part_of`."""
    high, low = total >> _LIMB_BITS, total & _LIMB
    part_high, part_low = part >> _LIMB_BITS, part & _LIMB
    middle = high * part_low + low * part_high + (low * part_low >> _LIMB_BITS)
    return high * part_high + (middle >> _LIMB_BITS)


@triton.jit
def place_of(weights, target):
    """Where the running sum of the weights first exceeds the target."""
    return tl.sum((tl.cumsum(weights, 0) <= target).to(tl.int32), 0)


@triton.jit
def weights_of(relative, unit):
    """`drawing.to_weights`."""
    return (relative * unit).to(tl.int64)


@triton.jit
def tempered(source, ids, vocab, temperature):
    """The row's logits of these ids, after temperature."""
    logits = tl.load(source + ids, mask=ids < vocab, other=float("-inf")).to(tl.float32)
    return tl.div_rn(logits, temperature)


@triton.jit
def keys_of(values):
    """Integers in the order of floats; both zeros are one."""
    bits = tl.where(values == 0, 0.0, values).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
