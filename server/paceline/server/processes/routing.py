"""Which of several engines gets a prompt: the one that knows its beginning, or the least loaded one. Pure.

An engine finds the pages of a prompt's beginning in its cache where it has computed them before. What it has is not
asked for: it is concluded from what was sent there, kept as hashes of whole pages, each with all that comes before it.
So the index may be wrong, by pages that the engine has given up or by two pages with one hash, and then a prompt is
computed in one place rather than in another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MOST_PAGES = 65_536  # remembered of an engine, some 8 MB


@dataclass(frozen=True, slots=True)
class Route:
    """Engines in the order in which to try them, and the hashes of the prompt's whole pages."""

    order: tuple[int, ...]
    pages: tuple[int, ...]


class Router:
    """Remembers what was sent to which engine, and chooses.

    The engine with the longest known beginning gets a prompt, unless it has more completions in flight than the least
    loaded one, by more than the pages known or by more than `slack`. So a page is worth one completion more, and
    whatever is cached, no engine gets busier than another by more than `slack` for it. Equals take turns.

    Args:
        engines: how many there are, from 0 on.
        page_size: tokens of a page; 0: nothing is cached.
        pages: remembered of each engine, the latest used: as many as it has.
        slack: completions.
        first: whose turn it is at the beginning, so that front ends that start together do not all choose the same.
    """

    def __init__(
        self, engines: int, *, page_size: int, pages: int, slack: int, first: int = 0
    ) -> None:
        self._page_size = page_size
        self._slack = slack
        self._known = [_Known(min(pages, MOST_PAGES)) for _ in range(engines)]
        self._turn = [
            (first + i) % engines for i in range(engines)
        ]  # who was chosen longest ago comes first

    def route(self, prompt: Sequence[int], loads: Mapping[int, int]) -> Route:
        """Where to send a prompt.

        Args:
            loads: completions in flight of each engine that is up; not empty.
        """
        pages = self._hashes(prompt)
        order = sorted((each for each in self._turn if each in loads), key=lambda each: loads[each])
        least, best, longest = loads[order[0]], order[0], self._known[order[0]].match(pages)
        for each in order[1:]:
            found = self._known[each].match(pages)
            if found > longest and loads[each] - least <= min(found, self._slack):
                best, longest = each, found
        order.remove(best)
        return Route((best, *order), pages)

    def sent(self, engine: int, pages: Sequence[int]) -> None:
        """A prompt of these pages goes to the engine."""
        self._turn.remove(engine)
        self._turn.append(engine)
        self._known[engine].add(pages)

    def forget(self, engine: int) -> None:
        """Its cache is gone."""
        self._known[engine].clear()

    def remembered(self, engine: int) -> int:
        """How many pages the engine is thought to have."""
        return len(self._known[engine])

    def _hashes(self, prompt: Sequence[int]) -> tuple[int, ...]:
        size, found, last = self._page_size, [], 0
        for end in range(size, len(prompt) + 1, size) if size else ():
            last = hash((last, *prompt[end - size : end]))
            found.append(last)
        return tuple(found)


class _Known:
    """The pages that an engine is thought to have: the `most` latest used."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pages: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pages)

    def match(self, pages: Sequence[int]) -> int:
        """How many of a prompt's first pages are known."""
        known = self._pages
        return next((i for i, page in enumerate(pages) if page not in known), len(pages))

    def add(self, pages: Sequence[int]) -> None:
        # The end of a prompt is forgotten before its beginning, without which it is worth nothing.
        for page in reversed(pages):
            self._pages[page] = None
            self._pages.move_to_end(page)
        while len(self._pages) > self._most:
            self._pages.popitem(last=False)

    def clear(self) -> None:
        self._pages.clear()
