"""The schedule of one open-loop level: absolute send times, the same in every process that draws it. Pure."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paceline.loadgen.arrivals import parse_arrival

WARMUP_SHARE = 0.15  # of a level's arrivals: they find an emptier server than those that follow


@dataclass(frozen=True, slots=True)
class Schedule:
    """Send times of a whole level, in seconds from its start; `rate` is their mean, requests a second."""

    rate: float
    seconds: float
    times: tuple[float, ...]

    def share(self, slot: int, slots: int) -> Iterator[tuple[int, float]]:
        """(number, time) of every `slots`-th arrival from number `slot` on: what one of `slots` processes sends.

        The shares of all slots together are the schedule, each arrival once: more processes, same rate.
        """
        for number in range(slot, len(self.times), slots):
            yield number, self.times[number]

    def warmup(self, requests: int) -> int:
        """How many of the first arrivals are warm-up; -1 asks for a share of them."""
        wanted = round(WARMUP_SHARE * len(self.times)) if requests < 0 else requests
        return min(wanted, len(self.times) - 1)


def make_schedule(arrival: str, rate: float | None, seconds: float, seed: int) -> Schedule:
    """The level's schedule, drawn from nothing but its arguments. Times are whole microseconds.

    `rate` None: the arrivals bring their own. Raises ArrivalError.
    """
    pattern = parse_arrival(arrival)
    rng = random.Random(f"{seed}/{arrival}/{rate}/{seconds}")
    drawn = pattern.offsets(rate or 0.0, seconds, rng)
    times = tuple(round(time, 6) for time in drawn)
    own = rate if rate is not None else round(len(times) / seconds, 4)
    return Schedule(own, seconds, times)


def schedule_digest(times: Sequence[float]) -> str:
    """SHA-256 of the send times as little-endian 64-bit microseconds: equal digests, equal schedules."""
    micros = (round(time * 1e6) for time in times)
    return hashlib.sha256(b"".join(each.to_bytes(8, "little") for each in micros)).hexdigest()


def digest_of_levels(schedules: Sequence[Schedule]) -> str:
    """SHA-256 over the levels' own digests, in their order."""
    digest = hashlib.sha256()
    for one in schedules:
        digest.update(bytes.fromhex(schedule_digest(one.times)))
    return digest.hexdigest()
