"""Which engine gets a prompt, and the sums of what engines do."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.server.processes.loads import total
from paceline.server.processes.routing import Router
from paceline.server.request import Load

ENGINES, PAGE, PAGES, SLACK = 3, 2, 12, 4

prompts = st.lists(st.integers(0, 1), max_size=12)
loads = st.dictionaries(st.integers(0, ENGINES - 1), st.integers(0, 12), min_size=1)
events = st.lists(st.tuples(prompts, loads, st.booleans()), max_size=25)


def known(sent: list[list[int]], prompt: list[int]) -> int:
    """The whole pages that a prompt's beginning has in common with any that was sent."""
    whole = len(prompt) // PAGE
    return max(
        (
            next(
                (i for i in range(whole) if other[: (i + 1) * PAGE] != prompt[: (i + 1) * PAGE]),
                whole,
            )
            for other in sent
        ),
        default=0,
    )


class TestRouter:
    @settings(max_examples=40, deadline=None)
    @given(events)
    def test_the_longest_beginning_within_the_slack(
        self, happenings: list[tuple[list[int], dict[int, int], bool]]
    ) -> None:
        """Nobody who is up and may be chosen knows more of a prompt than who is chosen, or as much with less to do."""
        router = Router(ENGINES, page_size=PAGE, pages=10_000, slack=SLACK)
        sent: dict[int, list[list[int]]] = {engine: [] for engine in range(ENGINES)}
        for prompt, busy, dies in happenings:
            route = router.route(prompt, busy)
            chosen, least = route.order[0], min(busy.values())
            length = {engine: known(sent[engine], prompt) for engine in busy}
            may = [e for e in busy if busy[e] - least <= min(length[e], SLACK)]
            assert sorted(route.order) == sorted(busy)
            assert list(route.order[1:]) == sorted(route.order[1:], key=busy.__getitem__)
            assert chosen in may
            assert (length[chosen], -busy[chosen]) == max((length[e], -busy[e]) for e in may)
            router.sent(chosen, route.pages)
            sent[chosen].append(prompt)
            if dies:
                router.forget(chosen)
                sent[chosen] = []

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.lists(st.integers(0, 3), max_size=40), max_size=30))
    def test_what_is_remembered_is_bounded(self, sent: list[list[int]]) -> None:
        """However much was sent; and the latest prompt is known as far as there is room, from its beginning on."""
        router = Router(1, page_size=PAGE, pages=PAGES, slack=SLACK)
        for prompt in sent:
            route = router.route(prompt, {0: 0})
            router.sent(0, route.pages)
            assert router.remembered(0) <= PAGES
            assert router._known[0].match(route.pages) == min(len(route.pages), PAGES)

    def test_equals_take_turns(self) -> None:
        """Short prompts, one after the other, go round all engines."""
        router = Router(ENGINES, page_size=PAGE, pages=PAGES, slack=SLACK, first=4)
        chosen = []
        for _ in range(6):
            route = router.route([1], dict.fromkeys(range(ENGINES), 0))
            router.sent(route.order[0], route.pages)
            chosen.append(route.order[0])
        assert chosen == [1, 2, 0, 1, 2, 0]

    def test_without_a_cache_nothing_is_remembered(self) -> None:
        """A page size of 0: the least loaded engine it is."""
        router = Router(2, page_size=0, pages=PAGES, slack=SLACK)
        route = router.route([1] * 100, {0: 0, 1: 0})
        router.sent(0, route.pages)
        assert router.remembered(0) == 0
        assert router.route([1] * 100, {0: 1, 1: 0}).order == (1, 0)


def test_loads_add_up() -> None:
    """Counts are summed, of time the latest and of waits the shortest is told, and each engine's own are kept."""
    one = Load(time_s=5.0, running=2, steps=10, step_s=0.5, queue_wait_s=3.0, pages_total=7)
    two = Load(time_s=6.0, running=1, steps=4, step_s=0.25, queue_wait_s=1.0, pages_total=7)
    both = total([one, None, two])
    assert (both.time_s, both.running, both.steps, both.step_s) == (6.0, 3, 14, 0.75)
    assert (both.queue_wait_s, both.pages_total, both.draining) == (1.0, 14, False)
    assert both.replicas == (one, Load(), two)
    assert total([None, None]).running == 0
