"""Deterministic planning: a request's steps look the same whoever its neighbours are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.server.config import Mode
from paceline.server.step import Step
from paper_model import expected_tokens
from scheduler_bench import Bench, request

CHUNK = 4
HEIGHT = 4
Part = tuple[int, int, int, int]  # height and width of the rectangle, start and end of the row


def bench(mode: Mode, *, num_pages: int, ahead: bool, prefix_cache: bool = True) -> Bench:
    return Bench(
        mode,
        num_pages=num_pages,
        ahead=ahead,
        deterministic=True,
        prefill_chunk=CHUNK,
        prefix_cache=prefix_cache,
    )


def parts_of(steps: list[Step], id: str) -> list[Part]:
    return [
        (rectangle.height, rectangle.width, row.start, row.end)
        for step in steps
        for rectangle in step.rectangles
        for row in rectangle.rows
        if row.sequence.request.id == id
    ]


def run(drive: Bench) -> list[Step]:
    steps = []
    while not (drive.scheduler.idle and drive.in_flight is None):
        step = drive.step()
        if step is not None:
            steps.append(step)
        assert drive.now < 2000
    return steps


PROMPT = [7, 8, 9, 7, 8, 9, 7, 8, 9, 10]


def alone(length: int) -> list[Part]:
    drive = bench(Mode.CONTINUOUS, num_pages=60, ahead=False)
    drive.scheduler.add(request("r", PROMPT, length))
    return parts_of(run(drive), "r")


@settings(max_examples=120, deadline=None)
@given(
    mode=st.sampled_from(list(Mode)),
    ahead=st.booleans(),
    before=st.lists(st.tuples(st.integers(1, 14), st.integers(1, 12)), max_size=4),
    after=st.lists(st.tuples(st.integers(1, 14), st.integers(1, 12)), max_size=6),
    length=st.integers(1, 12),
    num_pages=st.sampled_from([13, 17, 60]),
)
def test_neighbours_do_not_change_a_request_s_steps(
    mode: Mode,
    ahead: bool,
    before: list[tuple[int, int]],
    after: list[tuple[int, int]],
    length: int,
    num_pages: int,
) -> None:
    """Kinds, shapes and bounds of its parts are those it has alone; after a preemption they come again."""
    drive = bench(mode, num_pages=num_pages, ahead=ahead, prefix_cache=False)
    for i, (prompt, tokens) in enumerate(before):
        drive.scheduler.add(request(f"before {i}", [3] * prompt, tokens))
    drive.scheduler.add(request("r", PROMPT, length))
    steps = [drive.step() for _ in range(3)]
    for i, (prompt, tokens) in enumerate(after):
        drive.scheduler.add(request(f"after {i}", [4] * prompt, tokens))
    all_steps = [step for step in steps if step is not None] + run(drive)

    shapes = {(r.height, r.width, len(s.rectangles)) for s in all_steps for r in s.rectangles}
    assert shapes <= {(HEIGHT, 1, 1), (1, CHUNK, 1)}
    expected = alone(length)
    runs: list[list[Part]] = []
    for part in parts_of(all_steps, "r"):
        if part[2] == 0:
            runs.append([])
        runs[-1].append(part)
    assert runs[-1] == expected
    assert all(part == expected[: len(part)] for part in runs)
    if num_pages == 60:
        assert len(runs) == 1
    assert drive.tokens["r", 0] == expected_tokens(PROMPT, length)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_prefix_is_reused_by_whole_chunks(ahead: bool) -> None:
    """Only chunks that were computed as chunks are shared: neither part of one nor what was decoded."""
    drive = bench(Mode.CONTINUOUS, num_pages=60, ahead=ahead)
    drive.scheduler.add(request("first", PROMPT, 9))
    drive.run()
    longer = [*PROMPT, *drive.tokens["first", 0]]
    drive.scheduler.add(request("second", longer, 2))

    parts = parts_of(run(drive), "second")

    assert parts[0] == (1, CHUNK, 8, 12)  # of ten prompt tokens two chunks are whole
    assert drive.tokens["second", 0] == expected_tokens(longer, 2)


def test_prompts_and_decoding_take_turns() -> None:
    """While a long prompt is computed, every second step decodes."""
    drive = bench(Mode.CONTINUOUS, num_pages=60, ahead=False)
    drive.scheduler.add(request("decoding", [3], 12))
    drive.step()
    drive.scheduler.add(request("long", list(range(3, 27)), 1))

    widths = [s.rectangles[0].width for s in (drive.step() for _ in range(11)) if s is not None]

    assert widths == [1, CHUNK] * 5 + [1]
