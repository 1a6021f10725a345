"""How steps are padded, mode by mode."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paceline.server.policy import Continuous, Dynamic, Policy, Static
from paceline.server.rectangles import Buckets, decode_rectangles, prefill_rectangles
from paceline.server.request import Request, SamplingParams, StoppingParams
from paceline.server.sequence import Sequence
from paceline.server.step import Row

STATIC, DYNAMIC, CONTINUOUS = Static(8, 0.1), Dynamic(8, 0.1), Continuous(8)
BUCKETS = Buckets(rows=(1, 2, 4, 8), width=4)


def row(tokens: int, pages: int = 1) -> Row:
    request = Request("r", (1,) * tokens, SamplingParams(), StoppingParams(1), 0.0)
    return Row(Sequence(request, 0, 0), 0, tokens, True, pages)


def prefill(policy: Policy, lengths: list[int], batch_rows: int = 0) -> list[tuple[int, int]]:
    found = prefill_rectangles([row(n) for n in lengths], policy, batch_rows, BUCKETS)
    return [(r.height, r.width) for r in found]


def test_static_prefill_is_one_rectangle_as_wide_as_the_longest() -> None:
    """Short prompts are padded to the longest, and finished rows stay."""
    assert prefill(STATIC, [3, 9, 30], batch_rows=5) == [(8, 32)]


def test_dynamic_prefill_groups_prompts_by_powers_of_two() -> None:
    """Only prompts of similar length are padded to each other."""
    assert prefill(DYNAMIC, [3, 9, 30, 2]) == [(2, 4), (1, 12), (1, 32)]


def test_continuous_prefill_pads_only_to_the_bucket() -> None:
    """A chunk is rounded up, never padded to another one."""
    assert prefill(CONTINUOUS, [3, 9, 30, 4]) == [(2, 4), (1, 12), (1, 32)]


def test_static_decode_keeps_the_rows_it_began_with() -> None:
    """Two rows left of five are still computed as eight."""
    (only,) = decode_rectangles([row(1), row(1)], STATIC, 5, BUCKETS)

    assert (only.height, only.width) == (8, 1)


def test_decode_splits_where_contexts_differ_much() -> None:
    """One long row does not make the short ones look at its padding."""
    buckets = Buckets(rows=(8,), split_gain=10)
    rows = [row(1, pages=2), row(1, pages=30), row(1, pages=3)]

    short, long = decode_rectangles(rows, CONTINUOUS, 0, buckets)

    assert [r.num_pages for r in short.rows] == [2, 3]
    assert short.height == 7  # with the padding
    assert [r.num_pages for r in long.rows] == [30]


@given(
    pages=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    gain=st.one_of(st.none(), st.integers(1, 100)),
    policy=st.sampled_from([STATIC, DYNAMIC, CONTINUOUS]),
)
def test_decode_rectangles_hold_every_row_once(
    pages: list[int], gain: int | None, policy: Policy
) -> None:
    """However rows are split, none is lost and the padded height is the bucket's."""
    buckets = Buckets(rows=(1, 2, 4, 8, 16, 32, 64), split_gain=gain)
    rows = [row(1, n) for n in pages]

    found = decode_rectangles(rows, policy, 0, buckets)

    assert sorted(id(r) for rectangle in found for r in rectangle.rows) == sorted(map(id, rows))
    assert sum(rectangle.height for rectangle in found) == buckets.height_for(len(rows))
    assert all(rectangle.height >= len(rectangle.rows) > 0 for rectangle in found)


def test_the_line_is_padded_as_a_whole() -> None:
    """Without row buckets only the length of the whole line is rounded up, and not above the last one."""
    buckets = Buckets(rows=(), width=1, lines=(1, 2, 4, 8))

    assert [buckets.height_for(n) for n in (1, 3, 9)] == [1, 3, 9]
    assert [buckets.line_for(n) for n in (1, 3, 8, 9)] == [1, 4, 8, 9]
