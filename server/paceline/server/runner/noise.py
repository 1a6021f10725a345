"""The randomness of sampling: a pure function of (seed, position), so that batch mates, row order, restarts and
recomputation cannot change a token."""

from __future__ import annotations

SHARE_BITS = 62
_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15


def share(seed: int, position: int) -> int:
    """A uniform integer in [0, 2**62): the share of the probability that lies before the chosen token.

    SplitMix64 (Steele, Lea, Flood 2014, https://doi.org/10.1145/2714064.2660195) at index `position` of the stream
    that `seed` opens. It is counter-based by nature, passes BigCrush, and is ten integer operations where Philox
    takes ten rounds to make bits that one draw a row would throw away. The seed is mixed first: the completions of a
    request have consecutive seeds, and their streams must not be shifted copies of each other.
    """
    stream = _mix((seed + _GAMMA) & _MASK)
    return _mix((stream + (position + 1) * _GAMMA) & _MASK) >> (64 - SHARE_BITS)


def _mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)
