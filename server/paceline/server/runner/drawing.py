"""Inverse-CDF draws in whole numbers.

A probability becomes an integer weight. Sums of integers do not depend on the order, the blocking or the device that
made them, so a row draws the same token alone or in any batch, and a token of weight zero is never drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .noise import SHARE_BITS

_LIMB_BITS = SHARE_BITS // 2
_LIMB = 2**_LIMB_BITS - 1


def relative_probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """exp(logits - peak) of fp32 logits [R, V], and the peaks [R, 1]; meaningless where a peak is not finite."""
    peaks = logits.amax(-1, keepdim=True)
    return (logits - peaks).exp_(), peaks


def to_weights(relative: Tensor, vocab_size: int) -> Tensor:
    """Integers proportional to relative probabilities in [0, 1]; `vocab_size` of them sum to less than 2**62.

    The likeliest token weighs 2**k with k = 62 - bit_length(vocab_size), so that cutting off the fraction moves a
    total variation of at most vocab_size / 2**k: 2**-30 for 49,152 tokens, 2**-25 for 262,144. That is below what
    rounding the logits to fp32 has moved already.
    """
    return (relative * 2.0 ** (SHARE_BITS - vocab_size.bit_length())).long()


def part_of(totals: Tensor, shares: Tensor) -> Tensor:
    """floor(totals * shares / 2**62), exactly, for totals below and shares up to 2**62.

    In limbs of 31 bits, since no tensor holds products of 124.
    """
    high, low = totals >> _LIMB_BITS, totals & _LIMB
    share_high, share_low = shares >> _LIMB_BITS, shares & _LIMB
    middle = high * share_low + low * share_high + (low * share_low >> _LIMB_BITS)
    whole: Tensor = high * share_high + (middle >> _LIMB_BITS)
    return whole


def draw(weights: Tensor, shares: Tensor) -> Tensor:
    """For each row of weights [R, N], the place where the running sum first exceeds the share [R] of its total."""
    sums = weights.cumsum(-1)
    targets = part_of(sums[:, -1], shares)
    places = torch.searchsorted(sums, targets[:, None], right=True)[:, 0]
    return places.clamp_(max=weights.shape[-1] - 1)  # rows without weight stay in bounds


def share_tensor(fractions: Sequence[int], device: torch.device) -> Tensor:
    """Shares as `draw` and `part_of` take them."""
    return torch.tensor(fractions, dtype=torch.int64, device=device)
