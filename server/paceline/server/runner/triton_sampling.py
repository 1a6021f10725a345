"""Triton kernels that choose each row's next token: what `sampling` does, with no sort and no word to the host.

A row's vocabulary is cut into chunks, one program each, and the steps are launches whose grids depend on the number
of rows alone, so that a CUDA graph can hold them:

1. `scan_chunks` finds each chunk's largest logit. For greedy rows `take_peaks` ends here. (`triton_peaks`)
2. `weigh_chunks` sums the integer weights of `drawing`, and counts the tokens by their distance from the peak.
3. `plan_rows` sees from the counts which of the likeliest fit into the candidates of the row.
4. `collect_chunks` writes those, in the vocabulary's order. (`triton_candidates`)
5. `choose_rows`, here, finds the least likely that top-k and top-p keep by bisection, and draws. Where the candidates
   do not hold them all, which flat rows do to it, it goes through the whole row instead: slower, with the same result.

All sums are of integers, so neither blocks nor mates change a token. Triton is imported with these modules: import
them where there is a GPU, or where `TRITON_INTERPRET=1` was set before.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .sampling_table import Field
from .triton_drawing import draw_candidates, draw_chunks, draw_row
from .triton_peaks import is_finite, peak_token, row_peak
from .triton_table import is_drawn, is_filtered, is_penalised, real, temperature_of, word
from .triton_weights import part_of, share, weights_of

_TOP_K = tl.constexpr(Field.TOP_K.value)
_TOP_P = tl.constexpr(Field.TOP_P.value)
_MIN_P = tl.constexpr(Field.MIN_P.value)
_SEED = tl.constexpr(Field.SEED.value)


@triton.jit
def choose_rows(
    logits,
    stride,
    slots,
    positions,
    table,
    peaks,
    firsts,
    sums,
    cuts,
    found,
    values_in,
    ids_in,
    tokens,
    last_tokens,
    counts,
    seen,
    vocab,
    chunks,
    unit,
    reach,
    CHUNK: tl.constexpr,
    MAX_CHUNKS: tl.constexpr,
    CAPACITY: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
    COUNTING: tl.constexpr,
):
    """Draws each row's token, and counts it where the row has penalties. Grid: rows."""
    row = tl.program_id(0)
    slot = tl.load(slots + row)
    token = tl.zeros((), tl.int32)
    if slot >= 0:
        token -= 1
        if is_drawn(table, slot):
            temperature = temperature_of(table, slot)
            peak = tl.div_rn(row_peak(peaks, row, chunks, MAX_CHUNKS), temperature)
            if is_finite(peak):
                source = logits + row.to(tl.int64) * stride
                part = share(word(table, slot, _SEED), tl.load(positions + row))
                min_p = real(table, slot, _MIN_P).to(tl.float32)
                places = tl.arange(0, MAX_CHUNKS)
                of_chunks = tl.load(sums + row * chunks + places, mask=places < chunks, other=0)
                if is_filtered(table, slot):
                    token = _draw_filtered(
                        source,
                        vocab,
                        temperature,
                        peak,
                        unit,
                        reach,
                        word(table, slot, _TOP_K),
                        word(table, slot, _TOP_P),
                        min_p,
                        part,
                        tl.sum(of_chunks, 0),
                        values_in + row * CAPACITY,
                        ids_in + row * CAPACITY,
                        tl.load(found + row),
                        tl.load(cuts + row) == BINS - 1,
                        CAPACITY,
                        BLOCK,
                    )
                else:
                    token = draw_chunks(
                        source,
                        vocab,
                        temperature,
                        peak,
                        unit,
                        min_p,
                        part,
                        of_chunks,
                        CHUNK,
                        MAX_CHUNKS,
                    )
        else:
            token = peak_token(peaks, firsts, row, chunks, MAX_CHUNKS)
        tl.store(last_tokens + slot, tl.maximum(token, 0))
        if COUNTING:
            if is_penalised(table, slot) & (token >= 0):
                place = slot.to(tl.int64) * vocab + token
                tl.store(counts + place, tl.load(counts + place) + 1)
                tl.store(seen + place, 1)
    tl.store(tokens + row, token)


@triton.jit
def _draw_filtered(
    source,
    vocab,
    temperature,
    peak,
    unit,
    reach,
    top_k,
    top_p,
    min_p,
    part,
    total,
    values_in,
    ids_in,
    number,
    complete,
    CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Looks at the candidates, or at the whole row where they do not hold all that the filters keep.

    They do where they are all that has a weight (`complete`), and where they are enough to fill top-k or top-p.
    """
    inside = tl.arange(0, CAPACITY) < number
    values = tl.load(values_in + tl.arange(0, CAPACITY), mask=inside, other=float("-inf"))
    relative = tl.exp(values - peak)
    weights = weights_of(relative, unit)
    limit = tl.maximum(part_of(total, top_p), 1)
    enough = complete | ((top_k > 0) & (number >= top_k))
    enough = enough | ((top_k == 0) & (limit <= tl.sum(weights, 0)))
    if enough:
        ids = tl.load(ids_in + tl.arange(0, CAPACITY), mask=inside, other=0)
        token = draw_candidates(
            values, weights, relative, ids, inside, total, top_k, top_p, min_p, part
        )
    else:
        token = draw_row(
            source, vocab, temperature, peak, unit, reach, top_k, top_p, min_p, part, BLOCK
        )
    return token
