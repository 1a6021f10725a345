"""Triton kernels that choose each row's next token: what `sampling` does, with no sort and no word to the host.

A row's vocabulary is cut into chunks, one program each, and the steps are launches whose grids depend on the number
of rows alone, so that a CUDA graph can hold them:

1. `scan_chunks` finds each chunk's largest logit. For greedy rows `take_peaks` ends here.
2. `weigh_chunks` sums the integer weights of `drawing`, and counts the tokens by their distance from the peak.
3. `plan_rows` sees from the counts which of the likeliest fit into the candidates of the row.
4. `collect_chunks` writes those, in the vocabulary's order.
5. `choose_rows` finds the least likely that top-k and top-p keep by bisection, and draws. Where the candidates do not
   hold them all, which flat rows do to it, it goes through the whole row instead: slower, with the same result.

All sums are of integers, so neither blocks nor mates change a token. Triton is imported with this module: import it
where there is a GPU, or where `TRITON_INTERPRET=1` was set before.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .noise import SHARE_BITS
from .sampling_table import Field, Flag, row_words

_WIDTH = tl.constexpr(row_words())
_TEMPERATURE = tl.constexpr(Field.TEMPERATURE.value)
_TOP_K = tl.constexpr(Field.TOP_K.value)
_TOP_P = tl.constexpr(Field.TOP_P.value)
_MIN_P = tl.constexpr(Field.MIN_P.value)
_SEED = tl.constexpr(Field.SEED.value)
_FLAGS = tl.constexpr(Field.FLAGS.value)
_GREEDY = tl.constexpr(Flag.GREEDY.value)
_PENALTIES = tl.constexpr(Flag.PENALTIES.value)
_ALL = tl.constexpr(2**SHARE_BITS)
_LIMB_BITS = tl.constexpr(SHARE_BITS // 2)
_LIMB = tl.constexpr(2 ** (SHARE_BITS // 2) - 1)
_GAMMA = tl.constexpr(0x9E3779B97F4A7C15)
_NO_TOKEN = tl.constexpr(-1)
_LAST_INT = tl.constexpr(2**31 - 1)
_TILE = tl.constexpr(16)  # chunks whose counts are read at once


@triton.jit
def word(table, slot, field: tl.constexpr):
    return tl.load(table + slot.to(tl.int64) * _WIDTH + field)


@triton.jit
def real(table, slot, field: tl.constexpr):
    return word(table, slot, field).to(tl.float64, bitcast=True)


@triton.jit
def _mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def share(seed, position):
    """`noise.share` of a seed's 64 bits."""
    stream = _mix(seed.to(tl.uint64, bitcast=True) + _GAMMA)
    mixed = _mix(stream + (position.to(tl.uint64) + 1) * _GAMMA)
    return (mixed >> 2).to(tl.int64)


@triton.jit
def part_of(total, part):
    """`drawing.part_of`."""
    high, low = total >> _LIMB_BITS, total & _LIMB
    part_high, part_low = part >> _LIMB_BITS, part & _LIMB
    middle = high * part_low + low * part_high + (low * part_low >> _LIMB_BITS)
    return high * part_high + (middle >> _LIMB_BITS)


@triton.jit
def _finite(value):
    return tl.abs(value) < float("inf")


@triton.jit
def _row_peak(peaks, row, chunks, MAX_CHUNKS: tl.constexpr):
    places = tl.arange(0, MAX_CHUNKS)
    of_chunks = tl.load(peaks + row * chunks + places, mask=places < chunks, other=float("-inf"))
    broken = tl.sum((of_chunks != of_chunks).to(tl.int32), 0) > 0
    return tl.where(broken, float("nan"), tl.max(of_chunks, 0))


@triton.jit
def _first_peak(peaks, firsts, row, chunks, peak, MAX_CHUNKS: tl.constexpr):
    places = tl.arange(0, MAX_CHUNKS)
    inside = places < chunks
    of_chunks = tl.load(peaks + row * chunks + places, mask=inside, other=float("-inf"))
    ids = tl.load(firsts + row * chunks + places, mask=inside, other=_LAST_INT)
    return tl.min(tl.where(of_chunks == peak, ids, _LAST_INT), 0)


@triton.jit
def _tempered(source, ids, vocab, temperature):
    logits = tl.load(source + ids, mask=ids < vocab, other=float("-inf")).to(tl.float32)
    return tl.div_rn(logits, temperature)


@triton.jit
def _weights(relative, unit):
    return (relative * unit).to(tl.int64)


@triton.jit
def _bins(distance, bin_scale, BINS: tl.constexpr):
    # The last bin is of tokens too unlikely to have a weight.
    scaled = distance * bin_scale
    return tl.where(scaled < BINS - 1, scaled, BINS - 1).to(tl.int32)


@triton.jit
def _keys(values):
    """Integers in the order of floats; both zeros are one."""
    bits = tl.where(values == 0, 0.0, values).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _filtered(table, slot):
    return (word(table, slot, _TOP_K) > 0) | (word(table, slot, _TOP_P) < _ALL)


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
        peak = _row_peak(peaks, row, chunks, MAX_CHUNKS)
        first = _first_peak(peaks, firsts, row, chunks, peak, MAX_CHUNKS)
        token = tl.where(_finite(peak), first, _NO_TOKEN)
        tl.store(last_tokens + slot, tl.maximum(token, 0))
    tl.store(tokens + row, token)


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
        if (word(table, slot, _FLAGS) & _GREEDY) == 0:
            temperature = real(table, slot, _TEMPERATURE).to(tl.float32)
            peak = tl.div_rn(_row_peak(peaks, row, chunks, MAX_CHUNKS), temperature)
            if _finite(peak):
                ids = chunk * CHUNK + tl.arange(0, CHUNK)
                values = _tempered(logits + row.to(tl.int64) * stride, ids, vocab, temperature)
                relative = tl.exp(values - peak)
                weights = _weights(relative, unit)
                place = row * chunks + chunk
                if _filtered(table, slot):
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
        if ((word(table, slot, _FLAGS) & _GREEDY) == 0) & _filtered(table, slot):
            bins = tl.arange(0, BINS)
            tile = tl.arange(0, _TILE)
            source = histograms + row * chunks * BINS + tile[:, None] * BINS + bins[None, :]
            totals = tl.zeros((BINS,), tl.int32)
            for start in range(0, chunks, _TILE):
                inside = (start + tile < chunks)[:, None]
                totals += tl.sum(tl.load(source + start * BINS, mask=inside, other=0), 0)
            fits = (tl.cumsum(totals, 0) <= CAPACITY) & (bins < BINS - 1)
            cut = tl.sum(fits.to(tl.int32), 0)
            written = tl.zeros((), tl.int32)
            for start in range(0, chunks, _TILE):
                inside = start + tile < chunks
                taken = inside[:, None] & (bins < cut)[None, :]
                counts = tl.sum(tl.load(source + start * BINS, mask=taken, other=0), 1)
                places = offsets + row * chunks + start + tile
                tl.store(places, written + tl.cumsum(counts, 0) - counts, mask=inside)
                written += tl.sum(counts, 0)
            tl.store(cuts + row, cut)
            tl.store(found + row, written)


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
        if ((word(table, slot, _FLAGS) & _GREEDY) == 0) & _filtered(table, slot):
            temperature = real(table, slot, _TEMPERATURE).to(tl.float32)
            peak = tl.div_rn(_row_peak(peaks, row, chunks, MAX_CHUNKS), temperature)
            if _finite(peak):
                ids = chunk * CHUNK + tl.arange(0, CHUNK)
                values = _tempered(logits + row.to(tl.int64) * stride, ids, vocab, temperature)
                taken = _bins(peak - values, bin_scale, BINS) < tl.load(cuts + row)
                before = tl.load(offsets + row * chunks + chunk)
                places = row * CAPACITY + before + tl.cumsum(taken.to(tl.int32), 0) - 1
                tl.store(values_out + places, values, mask=taken)
                tl.store(ids_out + places, ids, mask=taken)


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
        flags = word(table, slot, _FLAGS)
        peak = _row_peak(peaks, row, chunks, MAX_CHUNKS)
        if (flags & _GREEDY) != 0:
            if _finite(peak):
                token = _first_peak(peaks, firsts, row, chunks, peak, MAX_CHUNKS)
        else:
            temperature = real(table, slot, _TEMPERATURE).to(tl.float32)
            peak = tl.div_rn(peak, temperature)
            if _finite(peak):
                source = logits + row.to(tl.int64) * stride
                part = share(word(table, slot, _SEED), tl.load(positions + row))
                min_p = real(table, slot, _MIN_P).to(tl.float32)
                places = tl.arange(0, MAX_CHUNKS)
                of_chunks = tl.load(sums + row * chunks + places, mask=places < chunks, other=0)
                if _filtered(table, slot):
                    total = tl.sum(of_chunks, 0)
                    top_k = word(table, slot, _TOP_K)
                    top_p = word(table, slot, _TOP_P)
                    number = tl.load(found + row)
                    inside = tl.arange(0, CAPACITY) < number
                    mine = row * CAPACITY + tl.arange(0, CAPACITY)
                    values = tl.load(values_in + mine, mask=inside, other=float("-inf"))
                    relative = tl.exp(values - peak)
                    weights = _weights(relative, unit)
                    limit = tl.maximum(part_of(total, top_p), 1)
                    enough = (tl.load(cuts + row) == BINS - 1) | ((top_k > 0) & (number >= top_k))
                    enough = enough | ((top_k == 0) & (limit <= tl.sum(weights, 0)))
                    if enough:
                        ids = tl.load(ids_in + mine, mask=inside, other=0)
                        token = _draw_candidates(
                            values, weights, relative, ids, inside, total, top_k, top_p, min_p, part
                        )
                    else:
                        token = _draw_row(
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
                            BLOCK,
                        )
                else:
                    token = _draw_chunks(
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
        tl.store(last_tokens + slot, tl.maximum(token, 0))
        if COUNTING:
            if ((flags & _PENALTIES) != 0) & (token >= 0):
                place = slot.to(tl.int64) * vocab + token
                tl.store(counts + place, tl.load(counts + place) + 1)
                tl.store(seen + place, 1)
    tl.store(tokens + row, token)


@triton.jit
def _draw_chunks(
    source,
    vocab,
    temperature,
    peak,
    unit,
    min_p,
    part,
    of_chunks,
    CHUNK: tl.constexpr,
    MAX_CHUNKS: tl.constexpr,
):
    # The chunk in which the running sum first exceeds the target, then the place in it.
    sums = tl.cumsum(of_chunks, 0)
    target = part_of(tl.sum(of_chunks, 0), part)
    chunk = tl.sum((sums <= target).to(tl.int32), 0)
    target -= tl.sum(tl.where(tl.arange(0, MAX_CHUNKS) < chunk, of_chunks, 0), 0)
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
    relative = tl.exp(_tempered(source, ids, vocab, temperature) - peak)
    weights = tl.where(relative >= min_p, _weights(relative, unit), 0)
    return chunk * CHUNK + tl.sum((tl.cumsum(weights, 0) <= target).to(tl.int32), 0)


@triton.jit
def _draw_candidates(values, weights, relative, ids, inside, total, top_k, top_p, min_p, part):
    keys = tl.where(inside, _keys(values), -_LAST_INT - 1)
    least = tl.min(tl.where(inside, keys, _LAST_INT), 0).to(tl.int64)
    most = tl.max(keys, 0).to(tl.int64)
    if top_k > 0:
        least = _threshold(keys, inside.to(tl.int32), least, most, top_k)
        total = tl.sum(tl.where(keys >= least, weights, 0), 0)
    limit = tl.maximum(part_of(total, top_p), 1)
    if top_p < _ALL:
        least = _threshold(keys, weights, least, most, limit)
    ties = keys == least
    above = tl.sum(tl.where(keys > least, weights, 0), 0)
    each = tl.max(tl.where(ties, weights, 0), 0)
    before = above + (tl.cumsum(ties.to(tl.int64), 0) - 1) * each
    kept = ((keys > least) | (ties & (before < limit))) & (relative >= min_p)
    weights = tl.where(kept, weights, 0)
    target = part_of(tl.sum(weights, 0), part)
    place = tl.sum((tl.cumsum(weights, 0) <= target).to(tl.int32), 0)
    return tl.sum(tl.where(tl.arange(0, ids.shape[0]) == place, ids, 0), 0)


@triton.jit
def _threshold(keys, measures, low, high, target):
    """The largest key from which on upwards the measures reach the target, or `low` if none."""
    while low < high:
        middle = (low + high + 1) >> 1
        if tl.sum(tl.where(keys >= middle.to(tl.int32), measures, 0), 0) >= target:
            low = middle
        else:
            high = middle - 1
    return low


@triton.jit
def _draw_row(
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
    BLOCK: tl.constexpr,
):
    least = _keys(peak - reach).to(tl.int64)  # below it nothing has a weight
    most = _keys(peak).to(tl.int64)
    if top_k > 0:
        least = _row_threshold(
            source, vocab, temperature, peak, unit, least, most, top_k, True, BLOCK
        )
    above, at, each = _row_split(source, vocab, temperature, peak, unit, least, BLOCK)
    limit = tl.maximum(part_of(above + at, top_p), 1)
    if top_p < _ALL:
        least = _row_threshold(
            source, vocab, temperature, peak, unit, least, most, limit, False, BLOCK
        )
        above, at, each = _row_split(source, vocab, temperature, peak, unit, least, BLOCK)
    total = tl.zeros((), tl.int64)
    ties = tl.zeros((), tl.int64)
    for start in range(0, vocab, BLOCK):
        values = _tempered(source, start + tl.arange(0, BLOCK), vocab, temperature)
        weights, number = _kept(values, peak, unit, least, above, each, ties, limit, min_p)
        total += tl.sum(weights, 0)
        ties += number
    target = part_of(total, part)
    token = tl.zeros((), tl.int32)
    total = tl.zeros((), tl.int64)
    ties = tl.zeros((), tl.int64)
    for start in range(0, vocab, BLOCK):
        values = _tempered(source, start + tl.arange(0, BLOCK), vocab, temperature)
        weights, number = _kept(values, peak, unit, least, above, each, ties, limit, min_p)
        ties += number
        after = total + tl.sum(weights, 0)
        if (total <= target) & (target < after):
            token = start + tl.sum((total + tl.cumsum(weights, 0) <= target).to(tl.int32), 0)
        total = after
    return token


@triton.jit
def _row_threshold(
    source,
    vocab,
    temperature,
    peak,
    unit,
    low,
    high,
    target,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Reading and weighing cost more than comparing, so one pass tries three keys.
    while low < high:
        quarter = (high - low + 3) >> 2
        first, second, third = low + quarter, low + 2 * quarter, low + 3 * quarter
        to_first = tl.zeros((BLOCK,), tl.int64)
        to_second = tl.zeros((BLOCK,), tl.int64)
        to_third = tl.zeros((BLOCK,), tl.int64)
        for start in range(0, vocab, BLOCK):
            values = _tempered(source, start + tl.arange(0, BLOCK), vocab, temperature)
            keys = _keys(values).to(tl.int64)
            if COUNT:
                measures = tl.full((BLOCK,), 1, tl.int64)
            else:
                measures = _weights(tl.exp(values - peak), unit)
            to_first += tl.where(keys >= first, measures, 0)
            to_second += tl.where(keys >= second, measures, 0)
            to_third += tl.where(keys >= third, measures, 0)
        if tl.sum(to_third, 0) >= target:
            low = third
        elif tl.sum(to_second, 0) >= target:
            low = second
            high = third - 1
        elif tl.sum(to_first, 0) >= target:
            low = first
            high = second - 1
        else:
            high = first - 1
    return low


@triton.jit
def _row_split(source, vocab, temperature, peak, unit, key, BLOCK: tl.constexpr):
    """The weight above a key, at it, and of one token at it."""
    above = tl.zeros((BLOCK,), tl.int64)
    at = tl.zeros((BLOCK,), tl.int64)
    each = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, vocab, BLOCK):
        values = _tempered(source, start + tl.arange(0, BLOCK), vocab, temperature)
        keys = _keys(values).to(tl.int64)
        weights = _weights(tl.exp(values - peak), unit)
        ties = tl.where(keys == key, weights, 0)
        above += tl.where(keys > key, weights, 0)
        at += ties
        each = tl.maximum(each, ties)
    return tl.sum(above, 0), tl.sum(at, 0), tl.max(each, 0)


@triton.jit
def _kept(values, peak, unit, key, above, each, ties_before, limit, min_p):
    """The weights of a block, zero where dropped, and its ties at the key."""
    keys = _keys(values).to(tl.int64)
    ties = (keys == key).to(tl.int64)
    before = above + (ties_before + tl.cumsum(ties, 0) - 1) * each
    relative = tl.exp(values - peak)
    kept = ((keys > key) | ((ties > 0) & (before < limit))) & (relative >= min_p)
    return tl.where(kept, _weights(relative, unit), 0), tl.sum(ties, 0)
