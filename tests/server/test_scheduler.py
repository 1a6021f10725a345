"""The scheduler, driven at random: nothing lost, nothing leaked, no starvation, in every mode."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from paceline.server.config import Mode
from paceline.server.errors import DeadlineExceeded
from paceline.server.request import FinishReason, Request, SamplingParams, StoppingParams
from paceline.server.step import Sampled
from paper_model import expected_tokens
from scheduler_bench import Bench, request


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come, are cancelled, run late, fail and run out of memory in any order."""

    @initialize(
        mode=st.sampled_from(list(Mode)),
        num_pages=st.integers(9, 20),
        budget=st.sampled_from([16, 20, 64]),
        ahead=st.booleans(),
        deterministic=st.booleans(),
    )
    def begin(
        self, mode: Mode, num_pages: int, budget: int, ahead: bool, deterministic: bool
    ) -> None:
        self.bench = Bench(
            mode,
            num_pages=num_pages,
            max_step_tokens=budget,
            ahead=ahead,
            deterministic=deterministic,
            prefill_chunk=4,
        )
        self.sent: dict[str, Request] = {}
        self.disturbed: set[str] = set()

    @rule(
        prompt=st.lists(st.integers(3, 5), min_size=1, max_size=14),
        max_tokens=st.integers(1, 14),
        n=st.integers(1, 3),
        priority=st.integers(-1, 1),
        patience=st.one_of(st.none(), st.integers(1, 30)),
        gentle=st.booleans(),
        ends=st.sampled_from([frozenset[int](), frozenset(range(3, 15))]),
    )
    def arrive(
        self,
        prompt: list[int],
        max_tokens: int,
        n: int,
        priority: int,
        patience: int | None,
        gentle: bool,
        ends: frozenset[int],
    ) -> None:
        id = str(len(self.sent))
        until = None if patience is None else self.bench.now + patience
        late = {"time_limit": until} if gentle else {"deadline": until}
        self.sent[id] = request(
            id, prompt, max_tokens, at=self.bench.now, n=n, priority=priority, ends=ends, **late
        )
        if until is not None:
            self.disturbed.add(id)
        self.bench.scheduler.add(self.sent[id])

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), index=st.one_of(st.none(), st.integers(0, 2)))
    def cancel(self, data: st.DataObject, index: int | None) -> None:
        id = data.draw(st.sampled_from(sorted(self.sent)))
        bench = self.bench
        bench.outputs += bench.scheduler.cancel(id, FinishReason.CANCELLED, bench.now, index)
        self.disturbed.add(id)

    @rule(steps=st.integers(1, 6))
    def work(self, steps: int) -> None:
        for _ in range(steps):
            self.bench.step()

    @rule(in_launch=st.booleans())
    def a_step_fails(self, in_launch: bool) -> None:
        step = self.bench.step_goes_wrong(in_launch=in_launch, out_of_memory=False)
        if step is not None:
            self.disturbed |= {row.sequence.request.id for row in step.rows}

    @rule(in_launch=st.booleans())
    def a_step_runs_out_of_memory(self, in_launch: bool) -> None:
        self.bench.step_goes_wrong(in_launch=in_launch, out_of_memory=True)
        ended = {o.request_id for o in self.bench.outputs if o.finish and o.finish.error}
        self.disturbed |= ended  # the third time in a row, alone and in the smallest steps

    @invariant()
    def no_page_is_owned_twice_or_lost(self) -> None:
        scheduler, pages = self.bench.scheduler, self.bench.pages
        owned = Counter(page for s in scheduler._life for page in s.pages)
        assert len(owned) == pages.num_used
        assert 0 not in owned
        for page, users in owned.items():
            assert users == pages._users[page]
            if users > 1:  # shared pages hold a prefix that is complete
                holders = [s for s in scheduler._life if page in s.pages]
                assert all(s.pages.index(page) < s.num_registered for s in holders)

    @invariant()
    def rows_stay_within_the_batch(self) -> None:
        running, config = self.bench.scheduler._running, self.bench.config
        slots = [s.slot for s in running]
        assert len(set(slots)) == len(slots) <= config.max_batch_size
        assert all(0 <= slot < config.max_batch_size for slot in slots)
        assert all(s.slot == -1 and s.pending == 0 for s in self.bench.scheduler._waiting)
        for line in (running.prefilling, running.decoding):
            assert line == sorted(line, key=lambda s: s.place)

    @invariant()
    def a_token_is_pending_only_in_flight(self) -> None:
        pending = sum(s.pending for s in self.bench.scheduler._running)
        flying = self.bench.in_flight
        assert pending <= (0 if flying is None else len(flying[0].sampling_rows))

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.bench.run()
        ended = Counter((o.request_id, o.index) for o in self.bench.outputs if o.finish)
        assert ended == Counter((r.id, i) for r in self.sent.values() for i in range(r.n))
        assert Counter(self.bench.left_queue) == ended
        assert self.bench.pages.num_used == 0
        assert self.bench.scheduler._life.find("0") == []
        for id, sent in self.sent.items():
            room = self.bench.scheduler.max_context - len(sent.prompt_ids)
            full = expected_tokens(sent.prompt_ids, min(room, sent.stopping.max_tokens))
            ends = [i for i, token in enumerate(full) if token in sent.stopping.eos_token_ids]
            full = full[: ends[0] + 1] if ends else full
            for index in range(sent.n):
                got = self.bench.tokens[id, index]
                assert got == (full[: len(got)] if id in self.disturbed else full)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("mode", list(Mode))
def test_requests_finish_in_every_mode(mode: Mode) -> None:
    """A queue longer than the batch is served to the end, each request with its own tokens."""
    bench = Bench(mode)
    prompts = [[3 + i] * (1 + i) for i in range(10)]
    for i, prompt in enumerate(prompts):
        bench.scheduler.add(request(str(i), prompt))

    bench.run()

    for i, prompt in enumerate(prompts):
        assert bench.tokens[str(i), 0] == expected_tokens(prompt, 4)
    assert set(bench.reasons.values()) == {FinishReason.MAX_TOKENS}


def test_continuous_lets_a_newcomer_join_while_others_decode() -> None:
    """A request that arrives later is done before the long one it joined."""
    bench = Bench(Mode.CONTINUOUS)
    bench.scheduler.add(request("long", [3, 4], 20))
    bench.step()
    bench.scheduler.add(request("short", [5, 6], 2))

    bench.run()

    ends = [o.request_id for o in bench.outputs if o.finish]
    assert ends == ["short", "long"]


@pytest.mark.parametrize("mode", [Mode.SEQUENTIAL, Mode.STATIC, Mode.DYNAMIC])
def test_others_make_a_newcomer_wait_for_the_batch(mode: Mode) -> None:
    """Without continuous batching the short request waits for the long one."""
    bench = Bench(mode)
    bench.scheduler.add(request("long", [3, 4], 20))
    bench.step()
    bench.scheduler.add(request("short", [5, 6], 2))

    bench.run()

    ends = [o.request_id for o in bench.outputs if o.finish]
    assert ends == ["long", "short"]


def test_static_computes_finished_rows_and_dynamic_does_not() -> None:
    """The same work costs static more padded tokens than dynamic, for the same real ones."""
    cost = {}
    for mode in (Mode.STATIC, Mode.DYNAMIC):
        bench = Bench(mode, num_pages=60)
        for i, length in enumerate((2, 2, 2, 30)):
            bench.scheduler.add(request(str(i), [3, 4 + i], length))
        bench.run()
        load = bench.scheduler.load(bench.now)
        cost[mode] = (load.real_tokens, load.padded_tokens)

    assert cost[Mode.STATIC][0] == cost[Mode.DYNAMIC][0]
    assert cost[Mode.STATIC][1] > 2 * cost[Mode.DYNAMIC][1]


def test_a_long_prompt_is_computed_in_chunks_beside_decoding_rows() -> None:
    """Whoever decodes gets a token in every step while a long prompt is prefilled."""
    bench = Bench(Mode.CONTINUOUS, num_pages=40)
    bench.scheduler.add(request("decoding", [3], 12))
    bench.step()
    bench.scheduler.add(request("long", list(range(3, 53)), 1))

    steps = []
    while ("long", 0) not in bench.reasons:
        step = bench.step()
        assert step is not None
        steps.append({row.sequence.request.id for row in step.rows})
        assert step.real_tokens <= bench.config.max_step_tokens

    assert len(steps) == 4  # 50 tokens, 15 a step beside the decoding row
    assert all(names == {"decoding", "long"} for names in steps)


def test_completions_of_one_request_share_its_prompt_pages() -> None:
    """With n completions the full pages of the prompt are computed once."""
    bench = Bench(Mode.CONTINUOUS)
    bench.scheduler.add(request("n", [3, 4, 5, 6, 7, 8, 9], 2, n=3))

    step = bench.step()

    assert step is not None
    assert (
        step.real_tokens == 7 + 1 + 1
    )  # three full pages shared; the last token is always computed
    bench.run()
    usages = [o.finish.usage for o in bench.outputs if o.finish]
    assert [u.cached_tokens for u in usages] == [0, 6, 6]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_preemption_takes_from_the_last_and_loses_nothing(ahead: bool, deterministic: bool) -> None:
    """When pages run out the latest request waits and is computed again, to the same tokens."""
    bench = Bench(
        Mode.CONTINUOUS, num_pages=12, ahead=ahead, deterministic=deterministic, prefill_chunk=4
    )
    for id in ("first", "second", "third"):
        bench.scheduler.add(request(id, [3, 4, 5, 6], 12))

    bench.run()

    for id in ("first", "second", "third"):
        assert bench.tokens[id, 0] == expected_tokens([3, 4, 5, 6], 12)
    preempted = {o.request_id: o.finish.timings.preemptions for o in bench.outputs if o.finish}
    assert preempted["first"] == 0
    assert sum(preempted.values()) == bench.scheduler.load(0.0).preemptions > 0


def test_priority_goes_first() -> None:
    """Of those who wait, the smaller priority joins first."""
    bench = Bench(Mode.SEQUENTIAL)
    for id, priority in (("late", 5), ("early", -5), ("ordinary", 0)):
        bench.scheduler.add(request(id, [3, 4], 1, priority=priority))

    bench.run()

    assert [o.request_id for o in bench.outputs if o.finish] == ["early", "ordinary", "late"]


def test_deadline_in_the_queue_costs_no_computation() -> None:
    """A request whose deadline passed while it waited is never scheduled."""
    bench = Bench(Mode.SEQUENTIAL)
    bench.scheduler.add(request("running", [3, 4], 10))
    bench.scheduler.add(request("waiting", [5, 6], 1, deadline=3.0))

    bench.run()

    end = next(o.finish for o in bench.outputs if o.request_id == "waiting" and o.finish)
    assert isinstance(end.error, DeadlineExceeded)
    assert end.usage.completion_tokens == 0
    assert end.timings.batch_rows_max == 0


def test_time_limit_ends_with_what_there_is() -> None:
    """`time_limit` is no error: the tokens so far count."""
    bench = Bench(Mode.CONTINUOUS)
    bench.scheduler.add(request("r", [3, 4], 30, time_limit=5.0))

    bench.run()

    assert bench.reasons["r", 0] is FinishReason.TIME_LIMIT
    assert bench.tokens["r", 0] == expected_tokens([3, 4], 4)
    assert all(o.finish.error is None for o in bench.outputs if o.finish)


@pytest.mark.parametrize(("deadline", "time_limit"), [(5.0, 6.0), (6.0, 5.0)])
def test_the_earlier_of_deadline_and_time_limit_wins(deadline: float, time_limit: float) -> None:
    """Also where both have passed before anybody looked."""
    bench = Bench(Mode.CONTINUOUS)
    bench.scheduler.add(request("r", [3, 4], 30, deadline=deadline, time_limit=time_limit))

    (output,) = bench.scheduler.expire(now=7.0)

    assert output.finish is not None
    assert isinstance(output.finish.error, DeadlineExceeded) == (deadline < time_limit)


def test_context_limit_ends_a_sequence() -> None:
    """A sequence ends when prompt and output fill the context."""
    bench = Bench(Mode.CONTINUOUS, num_pages=6)  # five pages of two tokens
    bench.scheduler.add(request("r", [3] * 4, 100))

    bench.run()

    assert bench.reasons["r", 0] is FinishReason.CONTEXT_LIMIT
    assert len(bench.tokens["r", 0]) == 6


def test_stop_tokens_end_a_completion() -> None:
    """End-of-sequence and stop ids end it, each with its own reason."""
    first = expected_tokens([3, 4], 1)[0]
    bench = Bench(Mode.CONTINUOUS)
    ends = frozenset({first})
    for id, stopping in (
        ("eos", StoppingParams(9, eos_token_ids=ends)),
        ("stop", StoppingParams(9, stop_token_ids=ends)),
    ):
        bench.scheduler.add(Request(id, (3, 4), SamplingParams(), stopping, 0.0))

    bench.run()

    assert bench.reasons == {
        ("eos", 0): FinishReason.EOS,
        ("stop", 0): FinishReason.STOP_TOKEN,
    }


def test_a_row_without_finite_logits_fails_alone() -> None:
    """Token -1 ends its row with an error; its neighbour goes on."""
    bench = Bench(Mode.CONTINUOUS)
    bench.scheduler.add(request("bad", [3, 4], 3))
    bench.scheduler.add(request("good", [5, 6], 3))
    step = bench.scheduler.plan(0.0)
    assert step is not None
    sampled = bench.model.run(step)

    bench.outputs += bench.scheduler.apply(step, Sampled([-1, sampled.token_ids[1]]), 0.0)
    bench.run()

    assert bench.reasons["bad", 0] is FinishReason.ERROR
    assert bench.tokens["good", 0] == expected_tokens([5, 6], 3)


def test_the_last_page_goes_to_the_most_urgent() -> None:
    """For the last page the urgent row is asked first; the patient one, not yet planned, gives way."""
    bench = Bench(Mode.CONTINUOUS, num_pages=6)
    bench.scheduler.add(request("patient", [3, 4], 6, priority=1))
    bench.step()
    bench.scheduler.add(request("urgent", [5, 6, 7], 5, priority=-1))

    bench.run()

    assert bench.tokens["patient", 0] == expected_tokens([3, 4], 6)
    assert bench.tokens["urgent", 0] == expected_tokens([5, 6, 7], 5)
    preempted = {o.request_id: o.finish.timings.preemptions for o in bench.outputs if o.finish}
    assert preempted == {"patient": 1, "urgent": 0}
