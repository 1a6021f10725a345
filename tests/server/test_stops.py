"""Stop strings in text that comes in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paceline.server.stops import StopHit, StopSet

LETTERS = st.text(alphabet="ab.", max_size=30)
STOPS = st.lists(st.text(alphabet="ab.", min_size=1, max_size=4), max_size=4)


def naive_end(text: str, stops: list[str]) -> tuple[int, str] | None:
    """The first place where some stop string ends, and the longest of those that end there."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return end, max(ending, key=len)
    return None


@given(LETTERS, STOPS)
def test_finds_what_a_naive_search_finds(text: str, stops: list[str]) -> None:
    """The hit is the earliest end, and of several stop strings that end there the longest."""
    expected = naive_end(text, stops)
    assert StopSet(stops).matcher().feed(text) == (
        None if expected is None else StopHit(expected[1], expected[0])
    )


@given(LETTERS, STOPS, st.integers(1, 5))
def test_hits_do_not_depend_on_the_pieces(text: str, stops: list[str], size: int) -> None:
    """Text cut into pieces gives the hit of the whole text."""
    matcher, whole = StopSet(stops).matcher(), StopSet(stops).matcher().feed(text)
    for start in range(0, len(text), size):
        hit = matcher.feed(text[start : start + size])
        if hit is not None:
            assert whole == StopHit(hit.stop, start + hit.end)
            return
    assert whole is None


@given(LETTERS, STOPS)
def test_holds_back_exactly_what_may_begin_a_stop(text: str, stops: list[str]) -> None:
    """`held` is the longest end of the text that is a proper beginning of some stop string."""
    matcher = StopSet(stops).matcher()
    if matcher.feed(text) is not None:
        return
    beginnings = {stop[:size] for stop in stops for size in range(len(stop))}
    longest = max(
        (size for size in range(len(text) + 1) if text[len(text) - size :] in beginnings), default=0
    )
    assert matcher.held == longest


def test_search_goes_on_after_a_hit() -> None:
    """A caller that ignores a hit finds the overlapping next one."""
    matcher = StopSet(["aa"]).matcher()
    assert matcher.feed("aaa") == StopHit("aa", 2)
    assert matcher.feed("a") == StopHit("aa", 1)


def test_no_stop_strings_is_false() -> None:
    """An empty set says so, and empty strings are no stop strings."""
    assert not StopSet([])
    assert not StopSet([""])
    assert StopSet(["x"])
