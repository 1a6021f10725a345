"""Each row's largest logit: all that a greedy row needs, and what the others measure their probabilities by."""

from __future__ import annotations

import triton
import triton.language as tl

_NO_TOKEN = tl.constexpr(-1)
_LAST_INT = tl.constexpr(2**31 - 1)


@triton.jit
def scan_chunks(logits, stride, slots, peaks, firsts, vocab, CHUNK: tl.constexpr):
    """Each chunk's largest logit, NaN if any is, and the first id that has it. Grid: rows, chunks."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    if tl.load(slots + row) >= 0:
        ids = chunk * CHUNK + tl.arange(0, CHUNK)
        source = logits + row.to(tl.int64) * stride
        values = tl.load(source + ids, mask=ids < vocab, other=float("-inf")).to(tl.float32)
        broken = tl.sum((values != values).to(tl.int32), 0) > 0
        peak = tl.max(values, 0)
        place = row * tl.num_programs(1) + chunk
        tl.store(peaks + place, tl.where(broken, float("nan"), peak))
        tl.store(firsts + place, tl.min(tl.where(values == peak, ids, _LAST_INT), 0))


@triton.jit
def take_peaks(slots, peaks, firsts, tokens, last_tokens, chunks, MAX_CHUNKS: tl.constexpr):
    """The greedy choice. Grid: rows."""
    row = tl.program_id(0)
    slot = tl.load(slots + row)
    token = tl.zeros((), tl.int32)
    if slot >= 0:
        token = peak_token(peaks, firsts, row, chunks, MAX_CHUNKS)
        tl.store(last_tokens + slot, tl.maximum(token, 0))
    tl.store(tokens + row, token)


@triton.jit
def peak_token(peaks, firsts, row, chunks, MAX_CHUNKS: tl.constexpr):
    """The first of the row's largest, or none where the largest is of no use."""
    peak = row_peak(peaks, row, chunks, MAX_CHUNKS)
    places = tl.arange(0, MAX_CHUNKS)
    inside = places < chunks
    of_chunks = tl.load(peaks + row * chunks + places, mask=inside, other=float("-inf"))
    ids = tl.load(firsts + row * chunks + places, mask=inside, other=_LAST_INT)
    first = tl.min(tl.where(of_chunks == peak, ids, _LAST_INT), 0)
    return tl.where(is_finite(peak), first, _NO_TOKEN)


@triton.jit
def row_peak(peaks, row, chunks, MAX_CHUNKS: tl.constexpr):
    places = tl.arange(0, MAX_CHUNKS)
    of_chunks = tl.load(peaks + row * chunks + places, mask=places < chunks, other=float("-inf"))
    broken = tl.sum((of_chunks != of_chunks).to(tl.int32), 0) > 0
    return tl.where(broken, float("nan"), tl.max(of_chunks, 0))


@triton.jit
def is_finite(value):
    return tl.abs(value) < float("inf")
