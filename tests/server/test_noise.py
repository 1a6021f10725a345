"""The randomness of sampling."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from scipy import stats

from paceline.server.runner import noise


def splitmix64(state: int, index: int) -> int:
    """The generator as published, one state after the other."""
    for _ in range(index + 1):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def test_reference_generator_gives_published_numbers() -> None:
    """The generator that the next test compares with is SplitMix64."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [splitmix64(1234567, i) for i in range(3)] == published


@pytest.mark.parametrize("seed", [0, 1, 1234567, 2**63, 2**64 - 1])
def test_share_is_splitmix64_at_the_position(seed: int) -> None:
    """A share is the top 62 bits of number `position` of the stream that the seed opens."""
    stream = splitmix64(seed, 0)
    assert [noise.share(seed, i) for i in range(5)] == [
        splitmix64(stream, i) >> 2 for i in range(5)
    ]


def test_neighbouring_seeds_and_positions_are_independent() -> None:
    """Pairs of shares, along positions and along seeds, fill a grid evenly."""
    cells = 16
    grid = [[noise.share(seed, i) * cells >> 62 for i in range(200)] for seed in range(200)]
    along_positions = Counter(pair for row in grid for pair in itertools.pairwise(row))
    along_seeds = Counter(
        pair for one, other in itertools.pairwise(grid) for pair in zip(one, other, strict=True)
    )
    shifted = Counter(
        (one[i + 1], other[i]) for one, other in itertools.pairwise(grid) for i in range(199)
    )
    for counts in (along_positions, along_seeds, shifted):
        assert len(counts) == cells**2
        assert stats.chisquare(list(counts.values())).pvalue > 1e-3
