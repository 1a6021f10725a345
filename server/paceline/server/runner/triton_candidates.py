"""The likeliest tokens of rows with top-k or top-p: few enough for one program to look at all of them together.

On the way every drawn row's chunks are weighed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .sampling_table import Field
from .triton_peaks import is_finite, row_peak
from .triton_table import is_drawn, is_filtered, real, temperature_of
from .triton_weights import tempered, weights_of

_MIN_P = tl.constexpr(Field.MIN_P.value)
_TILE = tl.constexpr(16)  # chunks whose counts are read at once


@triton.jit
def weigh_chunks(
    logits,
    stride,
    slots,
    table,
    peaks,
    sums,
    histograms,
    vocab,
    unit,
    bin_scale,
    CHUNK: tl.constexpr,
    MAX_CHUNKS: tl.constexpr,
    BINS: tl.constexpr,
):
    """Each chunk's weight, and its tokens by distance from the row's peak. Grid: rows, chunks.

    Without top-k and top-p, tokens below min-p weigh nothing and are not counted.
    """
    row, chunk = tl.program_id(0), tl.program_id(1)
    chunks = tl.num_programs(1)
    slot = tl.load(slots + row)
    if slot >= 0:
        if is_drawn(table, slot):
            temperature = temperature_of(table, slot)
            peak = tl.div_rn(row_peak(peaks, row, chunks, MAX_CHUNKS), temperature)
            if is_finite(peak):
                ids = chunk * CHUNK + tl.arange(0, CHUNK)
                values = tempered(logits + row.to(tl.int64) * stride, ids, vocab, temperature)
                relative = tl.exp(values - peak)
                weights = weights_of(relative, unit)
                place = row * chunks + chunk
                if is_filtered(table, slot):
                    counts = tl.histogram(_bins(peak - values, bin_scale, BINS), BINS)
                    tl.store(histograms + place * BINS + tl.arange(0, BINS), counts)
                else:
                    kept = relative >= real(table, slot, _MIN_P).to(tl.float32)
                    weights = tl.where(kept, weights, 0)
                tl.store(sums + place, tl.sum(weights, 0))


@triton.jit
def plan_rows(
    slots,
    table,
    histograms,
    offsets,
    cuts,
    found,
    chunks,
    CAPACITY: tl.constexpr,
    BINS: tl.constexpr,
):
    """How many bins of a row fit into its candidates, and where each chunk writes its own. Grid: rows."""
    row = tl.program_id(0)
    slot = tl.load(slots + row)
    if slot >= 0:
        if _has_candidates(table, slot):
            counts = histograms + row * chunks * BINS
            cut = _bins_that_fit(counts, chunks, CAPACITY, BINS)
            tl.store(cuts + row, cut)
            written = _share_out(counts, offsets + row * chunks, chunks, cut, BINS)
            tl.store(found + row, written)


@triton.jit
def _bins_that_fit(counts, chunks, CAPACITY: tl.constexpr, BINS: tl.constexpr):
    bins, tile = tl.arange(0, BINS), tl.arange(0, _TILE)
    source = counts + tile[:, None] * BINS + bins[None, :]
    totals = tl.zeros((BINS,), tl.int32)
    for start in range(0, chunks, _TILE):
        inside = (start + tile < chunks)[:, None]
        totals += tl.sum(tl.load(source + start * BINS, mask=inside, other=0), 0)
    fits = (tl.cumsum(totals, 0) <= CAPACITY) & (bins < BINS - 1)
    return tl.sum(fits.to(tl.int32), 0)


@triton.jit
def _share_out(counts, offsets, chunks, cut, BINS: tl.constexpr):
    """Gives each chunk its place among the candidates; how many there are."""
    bins, tile = tl.arange(0, BINS), tl.arange(0, _TILE)
    source = counts + tile[:, None] * BINS + bins[None, :]
    written = tl.zeros((), tl.int32)
    for start in range(0, chunks, _TILE):
        inside = start + tile < chunks
        taken = inside[:, None] & (bins < cut)[None, :]
        numbers = tl.sum(tl.load(source + start * BINS, mask=taken, other=0), 1)
        tl.store(offsets + start + tile, written + tl.cumsum(numbers, 0) - numbers, mask=inside)
        written += tl.sum(numbers, 0)
    return written


@triton.jit
def collect_chunks(
    logits,
    stride,
    slots,
    table,
    peaks,
    offsets,
    cuts,
    values_out,
    ids_out,
    vocab,
    bin_scale,
    CHUNK: tl.constexpr,
    MAX_CHUNKS: tl.constexpr,
    CAPACITY: tl.constexpr,
    BINS: tl.constexpr,
):
    """Writes the candidates of filtered rows: logits after temperature, and ids, in order. Grid: rows, chunks."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    chunks = tl.num_programs(1)
    slot = tl.load(slots + row)
    if slot >= 0:
        if _has_candidates(table, slot):
            temperature = temperature_of(table, slot)
            peak = tl.div_rn(row_peak(peaks, row, chunks, MAX_CHUNKS), temperature)
            if is_finite(peak):
                ids = chunk * CHUNK + tl.arange(0, CHUNK)
                values = tempered(logits + row.to(tl.int64) * stride, ids, vocab, temperature)
                taken = _bins(peak - values, bin_scale, BINS) < tl.load(cuts + row)
                before = tl.load(offsets + row * chunks + chunk)
                places = row * CAPACITY + before + tl.cumsum(taken.to(tl.int32), 0) - 1
                tl.store(values_out + places, values, mask=taken)
                tl.store(ids_out + places, ids, mask=taken)


@triton.jit
def _has_candidates(table, slot):
    return is_drawn(table, slot) & is_filtered(table, slot)


@triton.jit
def _bins(distance, bin_scale, BINS: tl.constexpr):
    # The last bin is of tokens too unlikely to have a weight.
    scaled = distance * bin_scale
    return tl.where(scaled < BINS - 1, scaled, BINS - 1).to(tl.int32)
