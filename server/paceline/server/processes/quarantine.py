"""What becomes of requests that were being computed when an engine died. Pure.

Most of them were mere neighbours of the one that did it, if any did. So each is let in again, but only one of them at a
time, among requests that nobody suspects: if the engine dies again, the one to blame is known. Who ends without a death
is cleared; who was there at two deaths is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

DEATHS = 2  # after so many nobody waits for a third


class Quarantine:
    """Belongs to one engine, which it outlives in the supervisor's `Suspects`.

    Args:
        deaths: engines that died computing it, by fingerprint.
    """

    def __init__(self, deaths: Mapping[bytes, int]) -> None:
        self._deaths = dict(deaths)
        self._inside: str | None = None  # the id of the suspect that may be computed

    def suspects(self, fingerprint: bytes) -> bool:
        return fingerprint in self._deaths

    def refuses(self, fingerprint: bytes) -> bool:
        """Whether it is never let in again."""
        return self._deaths.get(fingerprint, 0) >= DEATHS

    def know(self, deaths: Mapping[bytes, int]) -> None:
        """How many engines have died of these by now, others of the server among them; 0: cleared."""
        self._deaths |= {each: count for each, count in deaths.items() if count}
        for cleared in [each for each, count in deaths.items() if not count]:
            self._deaths.pop(cleared, None)

    def lets_in(self, request_id: str, fingerprint: bytes) -> bool:
        """Whether this request may go in now; a suspect then has the one place."""
        if fingerprint in self._deaths:
            if self._inside is not None:
                return False
            self._inside = request_id
        return True

    def left(self, request_id: str, fingerprint: bytes, well: bool) -> bool:
        """A request ended, `well` if it did not fail; whether that cleared it."""
        if self._inside != request_id:
            return False
        self._inside = None
        return well and self._deaths.pop(fingerprint, None) is not None
