"""KV pages: who owns which, and which hold a prefix that somebody may need again. Pure bookkeeping.

A page stores the keys and values of `page_size` consecutive tokens. Page 0 belongs to nobody: padding
rows write and read there. A full page can be *registered* under the chain of token blocks that leads
to it; its chain is compared exactly, so two prefixes never collide. A page without users keeps its
content until it is needed: the least recently released goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

PADDING_PAGE = 0
ROOT = 0  # the chain before the first block

Block = tuple[int, tuple[int, ...]]  # (parent node, the block's tokens)


class PagePool:
    """Allocates, shares and reclaims pages. One owner: the scheduler.

    Args:
        num_pages: pages in the pool, the padding page included.
        page_size: tokens a page holds.
        prefix_cache: whether registered pages are found again by `match`.
    """

    def __init__(self, num_pages: int, page_size: int, *, prefix_cache: bool = True) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self._prefix_cache = prefix_cache
        self._users = [0] * num_pages
        self._idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_pages))
        self._page_of: dict[Block, tuple[int, int]] = {}  # block -> (page, node)
        self._block_of: dict[int, Block] = {}  # page -> its registered block
        self._last_node = ROOT

    @property
    def capacity(self) -> int:
        """Pages that can be owned at once."""
        return self.num_pages - 1

    @property
    def num_idle(self) -> int:
        """Pages nobody uses now; their content may still be matched."""
        return len(self._idle)

    @property
    def num_used(self) -> int:
        return self.capacity - len(self._idle)

    def pages_for(self, tokens: int) -> int:
        """Pages that hold `tokens` tokens."""
        return -(-tokens // self.page_size)

    def take(self, count: int) -> list[int]:
        """`count` pages for one user. The caller looked at `num_idle` first."""
        pages = [self._idle.popitem(last=False)[0] for _ in range(count)]
        for page in pages:
            self._users[page] = 1
            self._forget(page)
        return pages

    def match(
        self, tokens: Sequence[int], first: int, last: int, node: int
    ) -> tuple[list[int], int]:
        """Registered pages for blocks `first` .. `last - 1` of `tokens`, up to the first unknown one.

        `node` is the chain that leads to block `first`; the chain after the last match comes back with
        the pages. The pages gain a user: release them as if they had been taken.
        """
        pages: list[int] = []
        if self._prefix_cache:
            for i in range(first, last):
                block = (
                    node,
                    tuple(tokens[i * self.page_size : (i + 1) * self.page_size]),
                )
                found = self._page_of.get(block)
                if found is None:
                    break
                page, node = found
                pages.append(page)
        for page in pages:
            self._users[page] += 1
            self._idle.pop(page, None)
        return pages, node

    def register(self, page: int, parent: int, tokens: Sequence[int]) -> int:
        """Makes a full page findable after `parent`; returns the node its successors hang on.

        If an equal block is registered already, that one stays and its node is returned.
        """
        if not self._prefix_cache:
            return ROOT
        block = (parent, tuple(tokens))
        found = self._page_of.get(block)
        if found is not None:
            return found[1]
        self._last_node += 1
        self._page_of[block] = (page, self._last_node)
        self._block_of[page] = block
        return self._last_node

    def release(self, pages: Iterable[int]) -> None:
        """Gives up one use of each page. The end of a prefix is reclaimed before its beginning."""
        for page in reversed(list(pages)):
            self._users[page] -= 1
            if self._users[page] == 0:
                self._idle[page] = None
                if page not in self._block_of:
                    self._idle.move_to_end(page, last=False)

    def forget_all(self) -> None:
        """Drops every registration, for when page contents can no longer be trusted."""
        self._page_of.clear()
        self._block_of.clear()

    def _forget(self, page: int) -> None:
        block = self._block_of.pop(page, None)
        if block is not None:
            del self._page_of[block]
