"""Which pages a sequence holds, and what of its prompt is already in them."""

from __future__ import annotations

from .pages import ROOT, PagePool
from .sequence import Sequence


class Residency:
    """Moves pages between the pool and sequences, and keeps the prefix cache in step with them."""

    def __init__(self, pages: PagePool) -> None:
        self._pages = pages

    def missing(self, sequence: Sequence, tokens: int) -> int:
        """Pages a sequence lacks to hold so many tokens."""
        return self._pages.pages_for(tokens) - len(sequence.pages)

    def lacks(self, sequence: Sequence, tokens: int, spare: int = 0) -> bool:
        """Whether the pool cannot give what is missing and keep `spare` pages."""
        missing = self.missing(sequence, tokens)
        return missing > 0 and missing + spare > self._pages.num_idle

    def extend(self, sequence: Sequence, tokens: int) -> None:
        """Takes what is missing; ask `lacks` first."""
        missing = self.missing(sequence, tokens)
        if missing > 0:
            sequence.pages += self._pages.take(missing)

    def reuse(self, sequence: Sequence) -> None:
        """Replaces pages still to be computed by registered ones with the same content.

        The last token is always computed: its logits choose the next one.
        """
        size, first = self._pages.page_size, sequence.num_registered
        if sequence.num_computed != first * size:
            return
        last = (len(sequence.tokens) - 1) // size
        shared, chain = self._pages.match(sequence.tokens, first, last, sequence.chain)
        if not shared:
            return
        replaced = slice(first, first + len(shared))
        self._pages.release(sequence.pages[replaced])
        sequence.pages[replaced] = shared
        sequence.chain = chain
        sequence.num_registered += len(shared)
        sequence.num_computed = sequence.num_registered * size
        if sequence.first_token is None:
            sequence.cached_tokens += len(shared) * size

    def register(self, sequence: Sequence, end: int) -> None:
        """Lets others find the full pages of `tokens[:end]`.

        They may use them in this very step: a layer writes all keys and values before it reads any.
        """
        size = self._pages.page_size
        full = end // size
        if full == sequence.num_registered:
            return
        for i in range(sequence.num_registered, full):
            block = sequence.tokens[i * size : (i + 1) * size]
            sequence.chain = self._pages.register(sequence.pages[i], sequence.chain, block)
            sequence.num_registered = i + 1

    def first_pages(self, sequence: Sequence, tokens: int) -> tuple[int, ...]:
        """The pages that hold `tokens[:tokens]`."""
        return tuple(sequence.pages[: self._pages.pages_for(tokens)])

    def release(self, sequence: Sequence) -> None:
        """Gives all pages back; what is computed is forgotten."""
        self._pages.release(sequence.pages)
        sequence.pages = []
        sequence.num_computed = 0
        sequence.num_registered = 0
        sequence.chain = ROOT
        if sequence.first_token is None:
            sequence.cached_tokens = 0
