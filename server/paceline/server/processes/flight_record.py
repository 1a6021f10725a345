"""What the engine computes, in a file that outlives it: who was on board when it died, and since when it hangs.

The file is mapped into memory, so writing costs no system call, and what is written is there however the process ends.
Its layout, in native types:

    since, rows                        one clock for all processes; since 0.0: nothing is in flight
    2 x (count, rows x slot)           the steps in flight, at most two; count 0: none
    rows x (front end, first, print)   who has each slot
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..step import Step
from .suspects import FINGERPRINT_BYTES

_HEADER = struct.Struct("@dQ")
_SINCE = struct.Struct("@d")
_COUNT = struct.Struct("@Q")
_SLOT = "Q"
_PASSENGER = struct.Struct(f"@QQ{FINGERPRINT_BYTES}s")
_BANKS = 2


@dataclass(frozen=True, slots=True)
class Passenger:
    """A request on board: the serial of its front end, its first slot there, its fingerprint."""

    frontend: int
    first: int
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Flight:
    """The steps in flight: since when the latest news of them is (None: there are none), and who is on board."""

    since: float | None = None
    passengers: frozenset[Passenger] = frozenset()


class FlightRecord:
    """Writes. Belongs to the engine's thread.

    Args:
        rows: slots of the engine.
        passenger: who a request is, by its id.
    """

    def __init__(self, path: Path, rows: int, passenger: Callable[[str], Passenger]) -> None:
        self._passenger = passenger
        self._bank_size = _bank_size(rows)
        self._slots_at = _HEADER.size + _BANKS * self._bank_size
        size = self._slots_at + rows * _PASSENGER.size
        with path.open("w+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        _HEADER.pack_into(self._map, 0, 0.0, rows)
        self._stays = [-1] * rows  # the stay of the sequence that each slot is written for
        self._free = deque(range(_BANKS))
        self._flying: deque[int] = deque()

    def launching(self, step: Step, now: float) -> None:
        """Before a step is launched."""
        stays, slots = self._stays, array(_SLOT)
        for row in step.rows:
            sequence = row.sequence
            slot = sequence.slot
            if stays[slot] != sequence.stay:
                stays[slot] = sequence.stay
                self._board(slot, sequence.request_id)
            slots.append(slot)
        bank = self._free.popleft()
        self._flying.append(bank)
        at = _HEADER.size + bank * self._bank_size
        begin = at + _COUNT.size
        self._map[begin : begin + len(slots) * slots.itemsize] = slots.tobytes()
        _COUNT.pack_into(self._map, at, len(slots))  # last: now the slots are true
        _SINCE.pack_into(self._map, 0, now)

    def landed(self, now: float, *, latest: bool = False) -> None:
        """After the oldest step in flight was read back or lost, or with `latest` the newest one."""
        bank = self._flying.pop() if latest else self._flying.popleft()
        self._free.append(bank)
        _COUNT.pack_into(self._map, _HEADER.size + bank * self._bank_size, 0)
        _SINCE.pack_into(self._map, 0, now if self._flying else 0.0)

    def _board(self, slot: int, request_id: str) -> None:
        who = self._passenger(request_id)
        at = self._slots_at + slot * _PASSENGER.size
        _PASSENGER.pack_into(self._map, at, who.frontend, who.first, who.fingerprint)


def read(path: Path) -> Flight:
    """The steps in flight, whether or not the writer lives. None are where there is no record yet."""
    try:
        data = path.read_bytes()
        since, rows = _HEADER.unpack_from(data)
    except (OSError, struct.error):
        return Flight()
    found: set[Passenger] = set()
    size = _bank_size(rows)
    slots_at = _HEADER.size + _BANKS * size
    for bank in range(_BANKS):
        at = _HEADER.size + bank * size
        (count,) = _COUNT.unpack_from(data, at)
        for slot in array(_SLOT, data[at + _COUNT.size :][: count * array(_SLOT).itemsize]):
            found.add(Passenger(*_PASSENGER.unpack_from(data, slots_at + slot * _PASSENGER.size)))
    return Flight(since or None, frozenset(found))


def _bank_size(rows: int) -> int:
    return _COUNT.size + rows * array(_SLOT).itemsize
