"""The page pool, driven at random against a model that is too simple to be wrong."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from paceline.server.pages import PADDING_PAGE, ROOT, PagePool

PAGE_SIZE = 2
TOKENS = st.lists(st.integers(0, 2), min_size=0, max_size=8)


class PoolMachine(RuleBasedStateMachine):
    """Users take, share, fill and release pages; `content` is what each page was last filled with."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(num_pages=7, page_size=PAGE_SIZE)
        self.users: list[list[int]] = []
        self.content: dict[int, tuple[int, ...]] = {}  # page -> all tokens up to its end

    @rule(count=st.integers(0, 4))
    def take(self, count: int) -> None:
        if count > self.pool.num_idle:
            return
        pages = self.pool.take(count)
        assert len(pages) == count
        for page in pages:
            self.content.pop(page, None)
        self.users.append(pages)

    @rule(tokens=TOKENS)
    def match_then_fill(self, tokens: list[int]) -> None:
        """A prompt takes what is shared and computes the rest, as the scheduler does."""
        blocks = len(tokens) // PAGE_SIZE
        shared, node = self.pool.match(tokens, 0, blocks, ROOT)
        for i, page in enumerate(shared):
            assert self.content[page] == tuple(tokens[: (i + 1) * PAGE_SIZE])
        missing = blocks - len(shared)
        if missing > self.pool.num_idle:
            self.pool.release(shared)
            return
        fresh = self.pool.take(missing)
        for i, page in enumerate(fresh, start=len(shared)):
            self.content[page] = tuple(tokens[: (i + 1) * PAGE_SIZE])
            node = self.pool.register(page, node, tokens[i * PAGE_SIZE : (i + 1) * PAGE_SIZE])
        self.users.append(shared + fresh)

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.pool.release(self.users.pop(data.draw(st.integers(0, len(self.users) - 1))))

    @rule()
    def forget_all(self) -> None:
        self.pool.forget_all()
        assert self.pool.match([0] * 8, 0, 4, ROOT) == ([], ROOT)

    @invariant()
    def every_page_is_used_or_idle(self) -> None:
        used = Counter(page for pages in self.users for page in pages)
        assert PADDING_PAGE not in used
        assert len(used) == self.pool.num_used
        assert self.pool.num_idle + self.pool.num_used == self.pool.capacity

    def teardown(self) -> None:
        for pages in self.users:
            self.pool.release(pages)
        assert self.pool.num_used == 0
        assert sorted(self.pool.take(self.pool.capacity)) == list(range(1, 7))


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_least_recently_released_prefix_is_reclaimed_first() -> None:
    """Of two idle prefixes the older one goes, and its end before its beginning."""
    pool = PagePool(num_pages=5, page_size=1)
    for token in (7, 8):
        first, second = pool.take(2)
        node = pool.register(first, ROOT, [token])
        pool.register(second, node, [token])
        pool.release([first, second])

    pool.take(1)

    assert len(pool.match([7, 7], 0, 2, ROOT)[0]) == 1
    assert len(pool.match([8, 8], 0, 2, ROOT)[0]) == 2


def test_without_prefix_cache_nothing_is_found() -> None:
    """A pool made without a cache never shares."""
    pool = PagePool(num_pages=3, page_size=1, prefix_cache=False)

    pool.register(pool.take(1)[0], ROOT, [1])

    assert pool.match([1], 0, 1, ROOT) == ([], ROOT)
