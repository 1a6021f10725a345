"""The Triton attention, run by Triton's interpreter (on a GPU where there is one), beside plain softmax."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from triton_interpreter import DEVICE

pytest.importorskip("triton")
from paceline.server.runner import triton_attention as attention

PAGE = 4


@pytest.fixture(autouse=True)
def on_the_device() -> Iterator[None]:
    """Tensors are made where the kernels run."""
    with DEVICE:
        yield


@dataclass
class Case:
    """Rows of (tokens known before, tokens of this step), in a random layout of pages."""

    rows: list[tuple[int, int]]
    heads: int = 6
    kv_heads: int = 2
    dim: int = 16
    window: int | None = None
    softcap: float | None = None
    chunks: bool = True


CASES = {
    "decode": Case([(5, 1), (0, 1), (17, 1)], chunks=False),
    "chunks": Case([(0, 9), (4, 40), (63, 3)]),
    "chunks beside decode": Case([(30, 1), (11, 1), (0, 21), (8, 70)]),
    "window": Case([(30, 1), (100, 1), (0, 33), (50, 20)], window=7),
    "soft-cap": Case([(30, 1), (0, 20)], softcap=1.5),
    "no groups": Case([(9, 1), (3, 18)], heads=3, kv_heads=3),
    "one key head": Case([(9, 1), (3, 18)], heads=8, kv_heads=1),
    "odd head size": Case([(9, 1), (3, 18)], dim=12),
    "splits": Case([(700, 1), (511, 1), (512, 1), (1600, 1), (20, 1)], chunks=False, dim=8),
    "splits and window": Case([(1500, 1), (1023, 1)], window=40, chunks=False, dim=8),
    "splits beside chunks": Case([(1100, 1), (600, 20)], dim=8),
}


def lay_out(case: Case, rng: random.Random) -> tuple[attention.PagedStep, Tensor]:
    """The step's tensors, and a cache of noise with room for every row."""
    longest = max(known + new for known, new in case.rows)
    width = -(-longest // PAGE)
    pages = list(range(1, 1 + len(case.rows) * width))
    rng.shuffle(pages)
    table = torch.tensor(pages, dtype=torch.int32).view(len(case.rows), width)
    positions: list[int] = []
    slots: list[int] = []
    blocks: list[list[int]] = []
    block_q = attention.block_q(case.heads, case.kv_heads, tile=64) if case.chunks else 1
    for slot, (known, new) in enumerate(case.rows):
        for at in range(0, new, block_q):
            count = min(block_q, new - at)
            decodes = new == 1
            blocks.append([slot, len(positions) + at, -1 if decodes else count, known + at])
        positions += range(known, known + new)
        slots += [slot] * new
    positions += [0, 0]  # padding
    slots += [-1, -1]
    blocks.append([0, 0, 0, 0])
    step = attention.PagedStep(
        torch.tensor(positions, dtype=torch.int32),
        torch.tensor(slots, dtype=torch.int32),
        torch.tensor(blocks, dtype=torch.int32),
        table,
        block_q,
        attention.splits_for(longest),
    )
    return step, torch.randn(2, len(pages) + 1, case.kv_heads, PAGE, case.dim)


def expected(case: Case, query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """Softmax attention, row by row, in fp64. Keys and values: `[tokens, kv_heads, dim]` for each row."""
    outputs, at = [], 0
    for (known, new), k, v in zip(case.rows, keys, values, strict=True):
        q = query[at : at + new].double()
        k, v = (x.double().repeat_interleave(case.heads // case.kv_heads, 1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * case.dim**-0.5
        if case.softcap is not None:
            scores = torch.tanh(scores / case.softcap) * case.softcap
        q_at, k_at = torch.arange(known, known + new)[:, None], torch.arange(known + new)[None]
        hidden = k_at > q_at
        if case.window is not None:
            hidden |= k_at <= q_at - case.window
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, v))
        at += new
    return torch.cat(outputs)


@pytest.mark.parametrize("name", CASES)
def test_equals_softmax(name: str) -> None:
    """Stored keys and values of this step and of earlier ones give what plain attention gives."""
    case, rng = CASES[name], random.Random(3)
    torch.manual_seed(3)
    step, cache = lay_out(case, rng)
    tokens = len(step.positions)
    query = torch.randn(tokens, case.heads, case.dim)
    new_keys, new_values = torch.randn(2, tokens, case.kv_heads, case.dim)
    before = cache.clone()
    attention.store(new_keys, new_values, cache, step)
    got = attention.attend(
        query, cache, step, scale=case.dim**-0.5, window=case.window, softcap=case.softcap
    )

    keys, values, at = [], [], 0
    for slot, (known, new) in enumerate(case.rows):
        lines = []
        for side, fresh in ((0, new_keys), (1, new_values)):
            old = before[side, step.page_table[slot].long()].transpose(1, 2).flatten(0, 1)[:known]
            lines.append(torch.cat((old, fresh[at : at + new])))
        keys.append(lines[0])
        values.append(lines[1])
        at += new
    want = expected(case, query, keys, values)
    torch.testing.assert_close(got[:at].double(), want, atol=2e-5, rtol=2e-5)
    assert torch.equal(cache[:, 0], before[:, 0])  # padding is not stored


def test_a_chunk_may_end_in_a_block_of_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tokens that decode are cut along their keys, for those alone the splits were counted."""
    monkeypatch.setattr(attention, "SPLIT", 8)
    case = Case([(40, 1), (60, 200 // 12 * 12 + 17)], dim=8)
    step, cache = lay_out(case, random.Random(7))
    step = replace(step, splits=16)
    assert int(step.blocks[-2, 2]) == 1  # the last block but the empty one
    assert int(step.blocks[-2, 3]) >= 16 * 8
    query = torch.randn(len(step.positions), case.heads, case.dim)
    got = attention.attend(query, cache, step, scale=0.3)
    whole = attention.attend(query, cache, replace(step, splits=1), scale=0.3)
    torch.testing.assert_close(got[:-2], whole[:-2], atol=1e-6, rtol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Alone or among others, short and long, a row's result is the same to the last bit."""
    rng = random.Random(5)
    torch.manual_seed(5)
    together = Case([(700, 1), (3, 1), (1300, 1)], dim=8, chunks=False)
    step, cache = lay_out(together, rng)
    query = torch.randn(len(step.positions), together.heads, together.dim)
    among = attention.attend(query, cache, step, scale=0.3)
    for row in range(3):
        block = step.blocks[row : row + 1].clone()
        block[0, 1] = 0
        context = int(block[0, 3]) + 1
        alone = attention.PagedStep(
            step.positions[row : row + 1],
            step.token_slots[row : row + 1],
            block,
            step.page_table,
            1,
            attention.splits_for(context),
        )
        single = attention.attend(query[row : row + 1], cache, alone, scale=0.3)
        assert torch.equal(single[0], among[row])
