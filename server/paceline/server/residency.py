"""Which pages a sequence holds, and what of its prompt is already in them."""

from __future__ import annotations

from .pages import ROOT, PagePool
from .sequence import Sequence


class Residency:
    """Moves pages between the pool and sequences, and keeps the prefix cache in step with them.

    Args:
        pages: the pool.
        chunk: where given, only whole chunks of so many prompt tokens are registered and reused, each
            of which was computed by itself; a multiple of the page size.
    """

    def __init__(self, pages: PagePool, chunk: int | None = None) -> None:
        self._pages = pages
        self._chunk = chunk

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

        The last token is always computed: its logits choose the next one. Where the prompt's own log-probabilities
        are asked for, all are.
        """
        if sequence.prompt_logprobs:
            return
        size, first = self._pages.page_size, sequence.num_registered
        if sequence.num_computed != first * size:
            return
        if self._chunk is None:
            last = (len(sequence.tokens) - 1) // size
            shared, chain = self._pages.match(sequence.tokens, first, last, sequence.chain)
        else:
            last = (sequence.num_prompt - 1) // self._chunk * self._chunk // size
            shared, chain = self._match_chunks(sequence, first, last, self._chunk // size)
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
        """Lets others find the full pages of `tokens[:end]`, which are all known.

        They may use them in this very step: a layer writes all keys and values before it reads any.
        """
        size = self._pages.page_size
        if self._chunk is not None:
            end = min(end, sequence.num_prompt) // self._chunk * self._chunk
        tokens, chain = sequence.tokens, sequence.chain
        for i in range(sequence.num_registered, end // size):
            chain = self._pages.register(
                sequence.pages[i], chain, tokens[i * size : (i + 1) * size]
            )
            sequence.num_registered = i + 1
        sequence.chain = chain

    def release(self, sequence: Sequence) -> None:
        """Gives all pages back; what is computed is forgotten."""
        self._pages.release(sequence.pages)
        sequence.pages = []
        sequence.num_computed = 0
        sequence.num_registered = 0
        sequence.chain = ROOT
        if sequence.first_token is None:
            sequence.cached_tokens = 0

    def _match_chunks(
        self, sequence: Sequence, first: int, last: int, chunk_pages: int
    ) -> tuple[list[int], int]:
        """As `PagePool.match`, up to the first chunk of which a page is missing."""
        shared: list[int] = []
        chain = sequence.chain
        for at in range(first, last, chunk_pages):
            found, node = self._pages.match(sequence.tokens, at, at + chunk_pages, chain)
            if len(found) < chunk_pages:
                self._pages.release(found)
                break
            shared += found
            chain = node
        return shared, chain
