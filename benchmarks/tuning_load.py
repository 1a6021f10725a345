"""What `tuning.py` asks of a server, through the asyncio client, and what it saw."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from paceline.client import AsyncClient, Load, QueueFull

_WARM_UP_S = 1.5
_BETWEEN_PROMPTS_S = 0.5


class Ask(NamedTuple):
    """A prompt of token ids, and how many tokens answer it."""

    prompt: tuple[int, ...]
    output: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one answer: when it was asked for, and (moment, tokens) of each message, in seconds."""

    sent_s: float
    messages: tuple[tuple[float, int], ...]

    @property
    def ttft_ms(self) -> float:
        return (self.messages[0][0] - self.sent_s) * 1e3

    @property
    def tpot_ms(self) -> float | None:
        """None where one message had all tokens."""
        tokens = sum(count for _, count in self.messages[1:])
        return (self.messages[-1][0] - self.messages[0][0]) / tokens * 1e3 if tokens else None

    @property
    def gaps_ms(self) -> list[float]:
        """Between one message and the next."""
        stamps = [moment for moment, _ in self.messages]
        return [(b - a) * 1e3 for a, b in itertools.pairwise(stamps)]


async def steady(
    target: str, make: Callable[[], Ask], in_flight: int, window_s: float
) -> dict[str, Any]:
    """A closed loop of so many requests, whose rates are taken for `window_s` after a warm-up."""
    seen: list[Seen] = []  # without the users' first requests, which all come at once

    async def user(client: AsyncClient) -> None:
        await _one(client, make())
        while True:
            seen.append(await _one(client, make()))

    async with AsyncClient(target) as client:
        users = [asyncio.create_task(user(client)) for _ in range(in_flight)]
        await asyncio.sleep(_WARM_UP_S)
        before = await client.load()
        await asyncio.sleep(window_s)
        after = await client.load()
        for task in users:
            task.cancel()
        await asyncio.gather(*users, return_exceptions=True)
    return _rates(before, after) | _latencies(seen)


async def whole(target: str, asks: Iterable[Ask]) -> dict[str, Any]:
    """All at once, until the last is answered."""
    async with AsyncClient(target) as client:
        before = await client.load()
        watch = asyncio.create_task(_peak_pages(client))
        seen = await asyncio.gather(*(_one(client, one) for one in asks))
        after = await client.load()
        watch.cancel()
        peak = await watch
    told = {"pages_peak": peak, "pages_total": after.pages_total}
    return _rates(before, after) | told | _latencies(seen)


async def alone(target: str, asks: Sequence[Ask]) -> dict[str, Any]:
    """One after the other; the first is not counted."""
    async with AsyncClient(target) as client:
        seen = [await _one(client, one) for one in asks]
    return _latencies(seen[1:])


async def stalls(target: str, streams: Sequence[Ask], prompts: Sequence[Ask]) -> dict[str, Any]:
    """Long prompts, one after the other, while streams run: what the streams' readers wait, and the prompts."""
    async with AsyncClient(target) as client:
        running = [asyncio.create_task(_one(client, one)) for one in streams]
        firsts = []
        for prompt in prompts:
            await asyncio.sleep(_BETWEEN_PROMPTS_S)
            firsts.append((await _one(client, prompt)).ttft_ms)
        done = [one.done() for one in running]
        seen = await asyncio.gather(*running)
    if any(done):
        raise RuntimeError("streams ended before the prompts: make them longer")
    return {
        "streams_longest_gap_ms": statistics.median(max(one.gaps_ms) for one in seen),
        "prompts_ttft_ms": statistics.median(firsts),
    }


async def burst(target: str, asks: Sequence[Ask]) -> dict[str, Any]:
    """All at once, no retries: who is answered, who is told to come back, and how long each waited for that."""
    refusals: list[tuple[float, float]] = []

    async def one(client: AsyncClient, each: Ask) -> Seen | None:
        sent = time.perf_counter()
        try:
            return await _one(client, each)
        except QueueFull as full:
            refusals.append((time.perf_counter() - sent, full.retry_after_s or 0.0))
            return None

    async with AsyncClient(target, attempts=1) as client:
        answers = await asyncio.gather(*(one(client, each) for each in asks))
    seen = [each for each in answers if each is not None]
    told = {"answered": len(seen), "refused": len(refusals)}
    if refusals:
        told["refused_after_ms"] = statistics.median(each for each, _ in refusals) * 1e3
        told["retry_after_s"] = statistics.median(each for _, each in refusals)
    return told | _latencies(seen)


async def _one(client: AsyncClient, ask: Ask) -> Seen:
    sent = time.perf_counter()
    stream = client.stream(
        list(ask.prompt), max_tokens=ask.output, temperature=0.0, ignore_eos=True
    )
    messages = [
        (time.perf_counter(), chunk.num_tokens) async for chunk in stream if chunk.num_tokens
    ]
    return Seen(sent, tuple(messages))


async def _peak_pages(client: AsyncClient) -> int:
    peak = 0
    try:
        while True:
            peak = max(peak, (await client.load()).pages_used)
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        return peak


def _rates(before: Load, after: Load) -> dict[str, Any]:
    seconds, steps = after.time_s - before.time_s, after.steps - before.steps
    padded = after.padded_tokens - before.padded_tokens
    return {
        "seconds": seconds,
        "output_tok_s": (after.output_tokens - before.output_tokens) / seconds,
        "rows_mean": (after.row_steps - before.row_steps) / steps,
        "padding_waste": 1 - (after.real_tokens - before.real_tokens) / padded,
        "preemptions": after.preemptions - before.preemptions,
    }


def _latencies(seen: Sequence[Seen]) -> dict[str, Any]:
    firsts = sorted(one.ttft_ms for one in seen)
    paces = [one.tpot_ms for one in seen if one.tpot_ms is not None]
    return {
        "requests": len(seen),
        "ttft_ms_p50": statistics.median(firsts) if firsts else None,
        "ttft_ms_max": firsts[-1] if firsts else None,
        "tpot_ms_p50": statistics.median(paces) if paces else None,
    }
