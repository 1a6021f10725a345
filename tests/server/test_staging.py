"""What a step brings to the device."""

from __future__ import annotations

import numpy as np

from paceline.server.request import Request, SamplingParams, StoppingParams
from paceline.server.runner.residents import Residents
from paceline.server.runner.staging import DEVICE_TOKEN, Contents, Fields, Shape, fill, read, split
from paceline.server.sequence import Sequence
from paceline.server.step import Rectangle, Row, Step

PAGE_SIZE = 4
PROMPT = (7, 8)


def sequence(slot: int, stay: int) -> Sequence:
    request = Request(str(slot), PROMPT, SamplingParams(), StoppingParams(9), 0.0)
    made = Sequence(request, 0, 0)
    made.slot, made.stay, made.pages = slot, stay, [10 + slot]
    return made


def staged(
    residents: Residents, sequences: list[Sequence], start: int
) -> tuple[Contents, Fields[np.ndarray]]:
    """A step in which each sequence has one token."""
    rows = tuple(Row(each, start, start + 1, True, 1) for each in sequences)
    count = len(rows)
    contents = read(Step((Rectangle(rows, count, 1),), count), residents)
    shape = Shape(count, count, count, count, 1, 1)
    fields = split(np.zeros(shape.length, dtype=np.int32), shape)
    fill(fields, contents, 1)
    return contents, fields


def test_rows_that_stay() -> None:
    """Step after step the same rows move on by a token, and nobody joins again."""
    residents = Residents(4, PAGE_SIZE)
    mates = [sequence(2, 100), sequence(0, 101)]
    assert staged(residents, mates, 1)[0].joined == mates

    contents, fields = staged(residents, mates, 2)

    assert contents.joined == [] and contents.news == []
    assert fields.token_slots.tolist() == fields.sample_slots.tolist() == [2, 0]
    assert fields.positions.tolist() == [2, 2]
    assert fields.sample_positions.tolist() == [1, 1]
    assert fields.tokens.tolist() == [DEVICE_TOKEN] * 2


def test_the_host_sends_the_tokens_it_knows() -> None:
    """Also of a row that was there before: its list of tokens has grown since."""
    residents = Residents(4, PAGE_SIZE)
    mates = [sequence(0, 100), sequence(1, 101)]
    staged(residents, mates, 1)
    mates[1].tokens.append(5)

    _, fields = staged(residents, mates, 2)

    assert fields.tokens.tolist() == [DEVICE_TOKEN, 5]


def test_a_sequence_that_comes_back_is_new() -> None:
    """In the same rows, but another slot: it joins, and its pages are sent."""
    residents = Residents(4, PAGE_SIZE)
    mates = [sequence(0, 100), sequence(1, 101)]
    staged(residents, mates, 1)
    mates[1].slot, mates[1].stay, mates[1].pages = 3, 102, [33]

    contents, fields = staged(residents, mates, 2)

    assert contents.joined == [mates[1]] and contents.news == [3, 0, 33]
    assert fields.token_slots.tolist() == [0, 3]


def test_one_less() -> None:
    """Rows close up when one leaves, and what they have of their own moves with them."""
    residents = Residents(4, PAGE_SIZE)
    first, second = sequence(0, 100), sequence(1, 101)
    second.num_prompt = 1
    staged(residents, [first, second], 1)

    contents, fields = staged(residents, [second], 2)

    assert contents.joined == []
    assert fields.token_slots.tolist() == [1] and fields.sample_positions.tolist() == [2]
