"""Text made token by token equals text decoded at once."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.server.stops import StopSet
from paceline.server.text_stream import StopMatch, TextStream
from paceline.server.tokenizer import Tokenizer

UNICODE = st.text(max_size=60)
WORDS = st.text(alphabet="abcdeth 😀é你�", max_size=60)
# Lone continuation and lead bytes, as the byte-level alphabet writes 0x80, 0x9F, 0xE2, 0xF0 and 0xFF.
BROKEN = ["Ģ", "Ł", "â", "ð", "ÿ"]
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=5)


def pieces(stream: TextStream, ids: list[int], sizes: list[int]) -> list[str]:
    """What a stream gives for `ids` pushed in groups of these sizes, over and over."""
    out, start = [], 0
    for size in itertools.cycle(sizes):
        if start >= len(ids):
            break
        out.append(stream.push(ids[start : start + size]))
        start += size
    return [*out, stream.finish()]


@given(text=UNICODE, sizes=SIZES, skip_special=st.booleans())
def test_pieces_joined_are_the_text(
    tokenizer: Tokenizer, text: str, sizes: list[int], skip_special: bool
) -> None:
    """Any text survives any cut between its tokens."""
    ids = tokenizer.encode(text)
    joined = "".join(pieces(TextStream(tokenizer, skip_special=skip_special), ids, sizes))
    assert joined == tokenizer.decode(ids, skip_special)


@given(ids=st.lists(st.integers(0, 420), max_size=120), sizes=SIZES, skip_special=st.booleans())
@settings(max_examples=300)
def test_any_tokens_decode_as_at_once(
    tokenizer: Tokenizer, ids: list[int], sizes: list[int], skip_special: bool
) -> None:
    """Random tokens too: broken bytes, special tokens, ids that the tokenizer does not know."""
    joined = "".join(pieces(TextStream(tokenizer, skip_special=skip_special), ids, sizes))
    assert joined == tokenizer.decode(ids, skip_special)


@given(text=WORDS, sizes=SIZES, skip_special=st.booleans())
def test_word_tokens_keep_their_spaces(
    word_tokenizer: Tokenizer, text: str, sizes: list[int], skip_special: bool
) -> None:
    """A decoder that drops the first space drops it once, and byte tokens join into characters."""
    ids = word_tokenizer.encode(text)
    stream = TextStream(word_tokenizer, skip_special=skip_special)
    assert "".join(pieces(stream, ids, sizes)) == word_tokenizer.decode(ids, skip_special)


@pytest.mark.parametrize("count", [1, 40, 200])
def test_a_long_run_of_skipped_tokens_costs_no_space(word_tokenizer: Tokenizer, count: int) -> None:
    """Special tokens between two words do not make the second look like the first of a text."""
    word, end = word_tokenizer.encode(" the")[-1], word_tokenizer.eos_token_ids[0]
    stream = TextStream(word_tokenizer)
    assert "".join(pieces(stream, [word, *[end] * count, word], [1])) == "the the"


@given(run=st.lists(st.sampled_from(BROKEN), min_size=1, max_size=200))
def test_broken_bytes_flow(tokenizer: Tokenizer, run: list[str]) -> None:
    """Bytes that never become a character are given out on the way, not kept until the end."""
    ids = [tokenizer._fast.token_to_id(piece) for piece in run]
    out = pieces(TextStream(tokenizer), ids, [1])
    assert "".join(out) == tokenizer.decode(ids)
    assert len(out[-1]) <= 32


def test_work_per_token_is_bounded(tokenizer: Tokenizer) -> None:
    """However long the completion, a push decodes only a short window."""

    class Counting:
        special_ids = tokenizer.special_ids
        longest = 0

        def decode(self, ids: object, skip_special: bool = True) -> str:
            assert isinstance(ids, list)
            self.longest = max(self.longest, len(ids))
            return tokenizer.decode(ids, skip_special)

    # Only replacement characters keep a window from moving on at once; twice 256 tokens are the bound.
    for text, bound in (("the wind " * 500, 24), ("é" * 500, 24), ("\ufffd" * 1000, 520)):
        counting = Counting()
        stream = TextStream(counting)
        for token in tokenizer.encode(text):
            stream.push((token,))
        assert counting.longest <= bound


def test_half_a_character_waits(tokenizer: Tokenizer) -> None:
    """No piece holds half of a character that a later token completes."""
    ids = tokenizer.encode("x😺y")
    out = pieces(TextStream(tokenizer), ids, [1])
    assert "".join(out) == "x😺y"
    assert not any("\ufffd" in piece for piece in out)
    assert "" in out[:-1]


def naive_stop(
    tokenizer: Tokenizer, ids: list[int], stops: list[str], min_tokens: int
) -> tuple[str, StopMatch] | None:
    """The earliest token that completes a stop string, by decoding every prefix of the completion."""
    known = 0
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count])
        certain = text.rstrip("\ufffd")
        for end in range(known + 1, len(certain) + 1):
            ending = [stop for stop in stops if certain[:end].endswith(stop)]
            if ending and count >= min_tokens:
                stop = max(ending, key=len)
                return certain[: end - len(stop)], StopMatch(stop, count)
        known = max(known, len(certain))
    return None


@given(
    text=st.text(alphabet="aethSTOP .é😀", max_size=40),
    stops=st.lists(
        st.text(alphabet="aethSTOP .é😀", min_size=1, max_size=4), min_size=1, max_size=4
    ),
    sizes=SIZES,
    min_tokens=st.integers(0, 12),
    include=st.booleans(),
)
@settings(max_examples=300)
def test_stop_equals_a_naive_search(
    tokenizer: Tokenizer,
    text: str,
    stops: list[str],
    sizes: list[int],
    min_tokens: int,
    include: bool,
) -> None:
    """The text is cut where a search over every prefix cuts it, with the same stop string and token."""
    ids = tokenizer.encode(text)
    stream = TextStream(
        tokenizer, stops=StopSet(stops), min_tokens=min_tokens, include_stop=include
    )
    joined = "".join(pieces(stream, ids, sizes))
    expected = naive_stop(tokenizer, ids, stops, min_tokens)
    if expected is None:
        assert stream.match is None
        assert joined == text
    else:
        cut, match = expected
        assert stream.match == match
        assert joined == cut + (match.stop if include else "")


def test_beginning_of_a_stop_string_is_held_back(tokenizer: Tokenizer) -> None:
    """Text that may still become a stop string is given out only when it cannot any more."""
    stream = TextStream(tokenizer, stops=StopSet(["ten!"]))
    first = stream.push(tokenizer.encode("nine te"))
    assert first == "nine "
    assert stream.push(tokenizer.encode("ar")) == "tear"
    assert stream.push(tokenizer.encode("t")) == ""
    assert stream.finish() == "t"
    assert stream.match is None


def test_nothing_comes_after_a_match(tokenizer: Tokenizer) -> None:
    """Tokens the engine made before it heard of the stop are neither text nor counted."""
    stream = TextStream(tokenizer, stops=StopSet(["two"]))
    one, two, three = (tokenizer.encode(word) for word in ("one ", "two", " three"))
    assert stream.push([*one, *two, *three]) == "one "
    assert stream.push(three) == ""
    assert stream.finish() == ""
    assert stream.match == StopMatch("two", len(one) + len(two))
