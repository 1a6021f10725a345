"""How long to wait before what died is started again. Pure."""

from __future__ import annotations


class Backoff:
    """Delays in seconds: `first_s`, doubled with each death up to `most_s`, and `first_s` again after a steady life."""

    def __init__(self, first_s: float, most_s: float, steady_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._steady_s = steady_s
        self._next_s = first_s

    def after(self, lived_s: float) -> float:
        """The delay after the death of one that lived so long."""
        if lived_s > self._steady_s:
            self._next_s = self._first_s
        delay_s, self._next_s = self._next_s, min(self._most_s, 2 * self._next_s)
        return delay_s
