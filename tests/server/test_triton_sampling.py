"""The GPU's sampling kernels choose what the slow path chooses."""

from __future__ import annotations

import dataclasses
import math
import random
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triton_interpreter import DEVICE

pytest.importorskip("triton")

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from paceline.server.request import SamplingParams
from paceline.server.runner.drawing import part_of
from paceline.server.runner.noise import share
from paceline.server.runner.sampling import NO_TOKEN, SampleRow, sample_tokens
from paceline.server.runner.sampling_state import SamplingState
from paceline.server.runner.sampling_table import SetRow, Variant, kind
from paceline.server.runner.triton_weights import part_of as kernel_part_of
from paceline.server.runner.triton_weights import share as kernel_share

pytestmark = [
    # What GPUs do in silence, numpy, on which Triton's interpreter computes, warns of.
    pytest.mark.filterwarnings(f"ignore:{message}:RuntimeWarning")
    for message in ("All-NaN", "overflow encountered", "invalid value encountered")
]

GREEDY = SamplingParams(temperature=0.0)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
SAMPLED_PARAMS = [
    GREEDY,
    SamplingParams(),
    SamplingParams(temperature=0.7, min_p=0.05),
    SamplingParams(temperature=0.7, top_k=50),
    SamplingParams(temperature=1.3, top_k=50, top_p=0.9, min_p=0.01),
    SamplingParams(top_k=700),
    SamplingParams(top_k=1),
    SamplingParams(temperature=0.6, top_p=0.9),
    SamplingParams(temperature=3.0, top_p=0.99),
    SamplingParams(top_p=1e-12),
    SamplingParams(min_p=1.0),
    SamplingParams(temperature=1e-3),
    SamplingParams(temperature=100.0, top_p=0.5),
]
FULL_PARAMS = [
    SamplingParams(temperature=0.0, repetition_penalty=1.3),
    SamplingParams(frequency_penalty=0.5, presence_penalty=0.25, top_k=20),
    SamplingParams(
        repetition_penalty=0.7, frequency_penalty=-0.3, logit_bias=((1, 2.5), (3, -1.0))
    ),
    SamplingParams(logit_bias=((3, 4.0), (5, -100.0), (96, 7.0)), top_p=0.9),
    SamplingParams(temperature=0.0, logit_bias=((2, 1.5),)),
]
# One of each way through the kernels: greedy, plain, every filter, flat, and greedy, drawn and biased with history.
EVERY_WAY = [SAMPLED_PARAMS[i] for i in (0, 1, 4, 12)] + [FULL_PARAMS[i] for i in (0, 1, 3)]


def make_state(slots: int, vocab: int, small: bool = True) -> SamplingState:
    """With `small`, a row has several chunks, and often more tokens than fit its candidates."""
    if small:
        chunk = 32 if vocab < 100 else 256
        return SamplingState(slots, vocab, DEVICE, chunk=chunk, capacity=chunk, block=2 * chunk)
    return SamplingState(slots, vocab, DEVICE)


def choose(
    state: SamplingState,
    logits: Tensor,
    rows: list[SampleRow],
    slots: list[int] | None = None,
    variant: Variant | None = None,
) -> list[int]:
    """Sets the rows and chooses their tokens in one step."""
    slots = list(range(len(rows))) if slots is None else slots
    state.set_rows(slots, [set_row(row) for row in rows])
    if variant is None:
        variant = max(kind(r.params, r.min_tokens_banned, r.position + 1, r.position) for r in rows)
    return launch(state, logits, slots, [row.position for row in rows], variant)


def set_row(row: SampleRow) -> SetRow:
    least = row.position + 1 if row.min_tokens_banned else 0
    return SetRow(row.params, row.min_tokens_banned, least, row.prompt_ids, row.output_ids)


def launch(
    state: SamplingState, logits: Tensor, slots: list[int], positions: list[int], variant: Variant
) -> list[int]:
    out = torch.full((len(slots),), -7, dtype=torch.int64, device=DEVICE)
    last = torch.full((2048,), -7, dtype=torch.int32, device=DEVICE)
    state.choose(logits.to(DEVICE), integers(slots), integers(positions), out, last, variant)
    tokens, last_tokens = out.tolist(), last.tolist()
    for slot, token in zip(slots, tokens, strict=True):
        assert slot < 0 or last_tokens[slot] == max(token, 0)
    assert sum(token != -7 for token in last_tokens) == sum(slot >= 0 for slot in slots)
    return [int(token) for token in tokens]


def integers(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def random_logits(rows: int, vocab: int, seed: int, scale: float, step: float | None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator) * scale
    return logits if step is None else (logits / step).round() * step


@st.composite
def sample_rows(draw: st.DrawFn, params: list[SamplingParams], vocab: int) -> SampleRow:
    return SampleRow(
        dataclasses.replace(draw(st.sampled_from(params)), seed=draw(st.integers(0, 2**64 - 1))),
        position=draw(st.integers(0, 10_000)),
        min_tokens_banned=draw(st.sampled_from([(), (2, 3, 7), (vocab + 5,)])),
        prompt_ids=draw(st.sampled_from([(), (1, 2, 3, 3), (vocab - 1,)])),
        output_ids=draw(st.lists(st.integers(0, 9), max_size=6)),
    )


@triton.jit
def _part_and_share(totals, parts, seeds, positions, part_out, share_out):  # type: ignore[no-untyped-def]
    place = tl.program_id(0)
    tl.store(part_out + place, kernel_part_of(tl.load(totals + place), tl.load(parts + place)))
    tl.store(share_out + place, kernel_share(tl.load(seeds + place), tl.load(positions + place)))


def test_noise_and_products_are_bit_equal() -> None:
    """Over all seeds and totals, the kernels' 64-bit arithmetic is that of the slow path."""
    rng = random.Random(0)
    edges = [0, 1, 2**63 - 1, 2**63, 2**64 - 1]
    seeds = edges + [rng.getrandbits(64) for _ in range(60)]
    positions = [0, 1, 2**31 - 1, *(rng.getrandbits(20) for _ in range(62))]
    totals = [0, 1, 2**62 - 1, *(rng.getrandbits(62) for _ in range(62))]
    parts = [2**62, 2**62 - 1, 2**62, *(rng.getrandbits(62) for _ in range(62))]
    signed = [seed - 2**64 if seed >= 2**63 else seed for seed in seeds]
    columns = [torch.tensor(values, device=DEVICE) for values in (totals, parts, signed)]
    got_parts, got_shares = torch.zeros_like(columns[0]), torch.zeros_like(columns[0])
    _part_and_share[(len(seeds),)](*columns, integers(positions), got_parts, got_shares)
    assert got_shares.tolist() == [share(*each) for each in zip(seeds, positions, strict=True)]
    assert got_parts.tolist() == part_of(columns[0].cpu(), columns[1].cpu()).tolist()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_greedy_takes_the_first_of_the_largest(dtype: torch.dtype) -> None:
    """The lowest id among equals, in whichever chunks they lie, in every variant."""
    logits = random_logits(5, 1000, 1, 3.0, 1.0).clamp(max=6).to(dtype)
    logits[4] = 0.0
    rows = [SampleRow(GREEDY, 0)] * 5
    expected = sample_tokens(logits, rows).tolist()
    assert expected[4] == 0
    for variant in Variant:
        assert choose(make_state(5, 1000), logits, rows, variant=variant) == expected


@settings(max_examples=12, deadline=None)
@given(st.data(), st.sampled_from([97, 1000]), st.booleans(), st.booleans())
def test_tokens_are_the_slow_path_s(
    data: st.DataObject, vocab: int, small: bool, full: bool
) -> None:
    """Whatever the parameters, history and logits, a row gets the token that the slow path gives it."""
    params = SAMPLED_PARAMS + (FULL_PARAMS if full else [])
    rows = data.draw(st.lists(sample_rows(params, vocab), min_size=1, max_size=4))
    if not full:
        rows = [dataclasses.replace(row, min_tokens_banned=()) for row in rows]
    logits = random_logits(
        len(rows),
        vocab,
        data.draw(st.integers(0, 10**6)),
        data.draw(st.sampled_from([0.0, 0.3, 2.0, 8.0])),
        data.draw(st.sampled_from([None, 0.0625, 1.0])),
    ).to(data.draw(st.sampled_from(FLOATS)))
    before = logits.clone()
    got = choose(make_state(len(rows), vocab, small), logits, rows)
    assert torch.equal(logits, before)
    assert_close_enough(got, logits, rows)


def assert_close_enough(got: list[int], logits: Tensor, rows: list[SampleRow]) -> int:
    """Equal, but where another last bit of an exponential moves a border past the draw; says how many are not equal."""
    expected = sample_tokens(logits, rows).tolist()
    others = 0
    for index, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        if mine != theirs:
            others += 1
            row = rows[index]
            # A share a little less or more must then give what the kernels gave.
            assert mine in neighbours(logits[index : index + 1], row), (row, mine, theirs)
    return others


def neighbours(logits: Tensor, row: SampleRow) -> set[int]:
    """Tokens that shares and limits a few millionths away would give."""
    near = set()
    middle = share(row.params.seed, row.position)
    for step in (-(2**62) // 500_000, 0, 2**62 // 500_000):
        moved = min(max(middle + step, 0), 2**62 - 1)
        for top_p in (-2e-6, 0.0, 2e-6):
            params = row.params
            if params.top_p < 1.0:
                params = dataclasses.replace(params, top_p=min(max(params.top_p + top_p, 0), 1.0))
            with mock.patch("paceline.server.runner.sampling.share", lambda *_, moved=moved: moved):
                near.add(int(sample_tokens(logits, [dataclasses.replace(row, params=params)])[0]))
    return near


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_draws_are_the_slow_path_s() -> None:
    """All draws but at most one are equal, and that one is a neighbour: of a thousand on a GPU, of 90 interpreted."""
    rng = random.Random(0)
    each = 56 if DEVICE.type == "cuda" else 5
    rows = [
        SampleRow(
            dataclasses.replace(params, seed=rng.getrandbits(64)),
            rng.randrange(1000),
            prompt_ids=(1, 2, 3),
            output_ids=(3, 4, 4),
        )
        for params in SAMPLED_PARAMS + FULL_PARAMS
        for _ in range(each)
    ]
    assert len(rows) >= 18 * each
    logits = random_logits(len(rows), 97, 0, 3.0, None)
    state = SamplingState(len(rows), 97, DEVICE, chunk=128, capacity=128)
    got = choose(state, logits, rows)
    assert assert_close_enough(got, logits, rows) <= 1


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("scale", [3.0, 0.05])
def test_a_real_vocabulary(scale: float) -> None:
    """32,000 tokens, peaked, and so flat that they do not fit the candidates."""
    params = [SamplingParams(), SamplingParams(top_p=0.9), GREEDY]
    params.append(SamplingParams(top_k=9000, top_p=0.8))
    rows = [SampleRow(dataclasses.replace(p, seed=i), i) for i, p in enumerate(params)]
    logits = random_logits(len(rows), 32_000, 3, scale, None).to(torch.bfloat16)
    got = choose(make_state(len(rows), 32_000, small=False), logits, rows)
    assert_close_enough(got, logits, rows)


@pytest.mark.parametrize("params", EVERY_WAY, ids=str)
def test_a_row_without_usable_logits_harms_nobody(params: SamplingParams) -> None:
    """NaN anywhere or an infinite largest logit gives no token for that row, and for it alone."""
    clean = random_logits(6, 97, 0, 3.0, None).to(torch.bfloat16)
    rows = [SampleRow(params, i, output_ids=(1, 2)) for i in range(6)]
    first, last = choose(make_state(2, 97), clean[[0, 5]], [rows[0], rows[5]])
    broken = clean.clone()
    broken[1, 70] = math.nan
    broken[2] = math.nan
    broken[3, 8] = math.inf
    broken[4] = -math.inf
    tokens = choose(make_state(6, 97), broken, rows)
    assert tokens == [first, *[NO_TOKEN] * 4, last]
    assert NO_TOKEN not in (first, last)


def test_an_overflow_after_temperature_gives_no_token() -> None:
    """As in the slow path, a largest logit that temperature makes infinite is of no use."""
    logits = torch.full((1, 97), 1e20)
    rows = [SampleRow(SamplingParams(temperature=1e-30), 0)]
    assert (
        choose(make_state(1, 97), logits, rows)
        == [NO_TOKEN]
        == sample_tokens(logits, rows).tolist()
    )


@pytest.mark.parametrize("variant", list(Variant))
def test_rows_of_padding_change_nothing(variant: Variant) -> None:
    """A row without a slot gets token 0, and neither its logits nor anything of other rows matters to it."""
    logits = random_logits(4, 1000, 0, 3.0, None)
    logits[1] = math.nan
    rows = [SampleRow(GREEDY, 0)] * 2
    state = SamplingState(2, 1000, DEVICE, max_rows=4)
    state.set_rows([0, 1], [set_row(row) for row in rows])
    tokens = launch(state, logits, [1, -1, 0, -1], [0] * 4, variant)
    assert tokens == [int(logits[0].argmax()), 0, int(logits[2].argmax()), 0]


@settings(max_examples=4, deadline=None)
@given(st.data(), st.randoms(use_true_random=False))
def test_a_token_depends_on_its_row_alone(data: st.DataObject, rng: random.Random) -> None:
    """Alone or among mates, in any order and in any slot, a row gets the same token."""
    params = SAMPLED_PARAMS + FULL_PARAMS
    rows = data.draw(st.lists(sample_rows(params, 1000), min_size=2, max_size=4))
    logits = random_logits(len(rows), 1000, len(rows), 2.0, 0.0625)
    together = choose(make_state(12, 1000), logits, rows)
    order = rng.sample(range(len(rows)), len(rows))
    slots = rng.sample(range(12), len(rows))
    shuffled = choose(make_state(12, 1000), logits[order], [rows[i] for i in order], slots)
    assert shuffled == [together[i] for i in order]
    alone = choose(make_state(12, 1000), logits[:1], rows[:1], slots[:1])
    assert alone == together[:1]


@pytest.mark.parametrize("params", FULL_PARAMS, ids=str)
def test_penalties_follow_the_tokens_that_were_chosen(params: SamplingParams) -> None:
    """Step after step without a word from the host, history grows as the slow path's does."""
    rows = [
        SampleRow(dataclasses.replace(params, seed=i), 3, (), (1, 5, 9, 9), [4, 4, 4 + i])
        for i in range(3)
    ]
    state = make_state(3, 97)
    state.set_rows([2, 0, 1], [set_row(row) for row in rows])
    output = [list(row.output_ids) for row in rows]
    for step in range(4):
        logits = random_logits(3, 97, step % 2, 0.5, None)
        tokens = launch(state, logits, [2, 0, 1], [3 + step] * 3, Variant.FULL)
        now = [
            dataclasses.replace(row, position=3 + step, output_ids=ids)
            for row, ids in zip(rows, output, strict=True)
        ]
        assert_close_enough(tokens, logits, now)
        for ids, token in zip(output, tokens, strict=True):
            ids.append(token)


def test_bans_end_with_the_minimum() -> None:
    """A token may not be chosen while fewer than `min_tokens` were, whatever its bias."""
    logits = torch.zeros(1, 97)
    logits[0, 4], logits[0, 6] = 50.0, 25.0
    state = make_state(1, 97)
    biased = dataclasses.replace(GREEDY, logit_bias=((4, 90.0),))
    state.set_rows([0], [SetRow(biased, banned=(4, 99), min_tokens=2)])
    tokens = [launch(state, logits, [0], [i], Variant.FULL)[0] for i in range(4)]
    assert tokens == [6, 6, 4, 4]


def test_a_slot_forgets_who_had_it() -> None:
    """Bias, bans and history of a slot's last sequence do not reach the next one."""
    logits = random_logits(1, 97, 0, 1.0, None)
    state = make_state(2, 97)
    heavy = SamplingParams(
        temperature=0.0, repetition_penalty=9.0, presence_penalty=2.0, logit_bias=((5, 50.0),)
    )
    every = tuple(range(97))
    state.set_rows([0, 1], [SetRow(heavy, (1, 2), 50, every, every)] * 2)
    launch(state, logits, [0], [0], Variant.FULL)
    light = SamplingParams(temperature=0.0, presence_penalty=0.5)
    best = int(logits.argmax())
    assert choose(state, logits, [SampleRow(light, 0)]) == [best]
    assert choose(state, logits, [SampleRow(GREEDY, 0)], variant=Variant.FULL) == [best]


def test_lists_that_are_too_long_are_refused() -> None:
    """What does not fit the table raises before anything is written."""
    state = make_state(1, 2000)
    state.set_rows([0], [SetRow(GREEDY)])
    bias = tuple((token, 1.0) for token in range(1025))
    with pytest.raises(ValueError, match="1025 biased"):
        state.set_rows([0], [SetRow(dataclasses.replace(GREEDY, logit_bias=bias))])
    with pytest.raises(ValueError, match="129 banned"):
        state.set_rows([0], [SetRow(GREEDY, banned=tuple(range(129)), min_tokens=1)])
    full = dataclasses.replace(GREEDY, logit_bias=bias[:1024])
    logits = torch.zeros(1, 2000)
    logits[0, 1500] = 0.5
    assert choose(state, logits, [SampleRow(full, 0)]) == [0]


@pytest.mark.parametrize("params", [GREEDY, *SAMPLED_PARAMS[3:5], *FULL_PARAMS[:4]])
def test_masks(params: SamplingParams) -> None:
    """A masked row gets what the slow path gives it, and its neighbours what they get without masks."""
    vocab = 97
    logits = random_logits(3, vocab, 5, 2.0, None)
    mask = np.zeros(4, dtype=np.uint32)
    mask[:] = 1 << 31 | 1 << 3, 0x0F0F, 1 << 5, 1  # 97 tokens are 3 words and a bit
    rows = [
        SampleRow(params, 4, (), (1, 2), (3, 5, 63), mask=mask if i != 1 else None)
        for i in range(3)
    ]
    state = make_state(3, vocab)
    state.set_masks([(0, mask), (2, mask)])

    tokens = choose(state, logits, rows, [2, 0, 1], Variant.GUIDED)

    assert tokens == sample_tokens(logits, rows).tolist()
    for i in (0, 2):
        assert mask[tokens[i] // 32] >> tokens[i] % 32 & 1
