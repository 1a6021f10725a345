"""The real gRPC server, driven at random: every call ends once, with a status that is right, and no page is lost."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any

import grpc
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from background_server import WAIT_S, BackgroundServer
from mock_serving import generation, paced
from paceline.server.config import Mode
from paceline.server.loader import Loaded
from paceline.server.mock import MockRunner
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb
from small_tokenizers import byte_level_tokenizer

Code = grpc.StatusCode
TOKENIZER = Tokenizer(byte_level_tokenizer())
# `PACELINE_EXAMPLES=1000 pytest tests/server/test_any_order.py` is the long run.
EXAMPLES = int(os.environ.get("PACELINE_EXAMPLES", "25"))
ROUND_TRIPS = 4  # a unit of time that passes between rules


@dataclass(eq=False)
class Sent:
    """A call, what it may end with, and what it ended with."""

    generation: pb.Generation
    kind: str
    deadline_s: float | None
    slow: asyncio.Event = field(default_factory=asyncio.Event)  # set: a slow reader reads on
    cancelled: bool = False
    aborted: bool = False
    statuses: list[Code] = field(default_factory=list)
    finishes: dict[int, int] = field(default_factory=dict)  # completion -> reason
    tokens: dict[int, int] = field(default_factory=dict)
    summaries: int = 0
    task: asyncio.Task[None] | None = None

    @property
    def n(self) -> int:
        return self.generation.sampling.n

    async def run(self, stub: Any) -> None:
        try:
            if self.kind == "unary":
                request: Any = pb.GenerateRequest(generation=self.generation)
                self._take((await stub.Generate(request, timeout=self.deadline_s)).result)
            elif self.kind == "batch":
                request = pb.GenerateBatchRequest(generations=[self.generation])
                answer = await stub.GenerateBatch(request, timeout=self.deadline_s)
                (item,) = answer.items
                if item.HasField("error"):
                    self.statuses.append(_code(item.error.code))
                    return
                self._take(item.result)
            else:
                request = pb.GenerateStreamRequest(generation=self.generation)
                call = stub.GenerateStream(request, timeout=self.deadline_s)
                try:
                    async for message in call:
                        self._read(message)
                        if self.kind == "slow stream":
                            await self.slow.wait()
                finally:
                    call.cancel()
            self.statuses.append(Code.OK)
        except grpc.aio.AioRpcError as error:
            self.statuses.append(error.code())
        except asyncio.CancelledError:
            self.statuses.append(Code.CANCELLED)

    def _take(self, result: pb.GenerationResult) -> None:
        for completion in result.completions:
            self.finishes[completion.index] = completion.finish.reason
            self.tokens[completion.index] = completion.num_tokens

    def _read(self, message: pb.GenerateStreamResponse) -> None:
        assert not self.summaries, "nothing follows the summary"
        index = message.index
        if not message.HasField("header"):
            assert index not in self.finishes, "nothing follows a completion's end"
            assert message.offset == self.tokens.get(index, 0), "no token is lost or sent twice"
            self.tokens[index] = message.offset + message.num_tokens
        if message.HasField("finish"):
            self.finishes[index] = message.finish.reason
        self.summaries += message.HasField("summary")

    def check(self, *, drained: bool, ids: int) -> None:
        """What was done to the call explains how it ended."""
        assert len(self.statuses) == 1
        allowed = {Code.OK, Code.RESOURCE_EXHAUSTED}
        allowed |= {Code.CANCELLED} if self.cancelled else set()
        allowed |= {Code.DEADLINE_EXCEEDED} if self.deadline_s is not None else set()
        allowed |= {Code.UNAVAILABLE} if drained else set()
        allowed |= {Code.INVALID_ARGUMENT} if ids > 1 else set()
        assert self.statuses[0] in allowed
        if self.statuses[0] is not Code.OK:
            return
        assert len(self.finishes) == self.n
        most = self.generation.stopping.max_tokens
        reasons = {pb.FINISH_REASON_MAX_TOKENS}
        reasons |= {pb.FINISH_REASON_TIME_LIMIT} if self.generation.time_limit_ms else set()
        reasons |= {pb.FINISH_REASON_ABORTED} if self.aborted or drained else set()
        for index, reason in self.finishes.items():
            assert reason in reasons
            tokens = self.tokens.get(index, 0)
            assert tokens == most if reason == pb.FINISH_REASON_MAX_TOKENS else tokens <= most


def _code(number: int) -> Code:
    return next(code for code in Code if code.value[0] == number)


class ServerMachine(RuleBasedStateMachine):
    """Calls arrive, are read or not, are cancelled, run late, are aborted; and the server may drain meanwhile."""

    @initialize(
        mode=st.sampled_from(list(Mode)),
        rows=st.integers(1, 4),
        pages=st.integers(8, 40),
        queue=st.sampled_from([3, 6, 100]),
        step_s=st.sampled_from([0.0, 0.0005, 0.002]),
        admission=st.sampled_from(["bounds", "deadline"]),
    )
    def begin(
        self, mode: Mode, rows: int, pages: int, queue: int, step_s: float, admission: str
    ) -> None:
        runner = MockRunner(
            vocab_size=TOKENIZER.vocab_size,
            num_pages=pages,
            max_context_tokens=200,
            on_step=paced(step_s),
        )
        self.server = BackgroundServer(
            Loaded(runner, TOKENIZER),
            mode=mode,
            max_batch_size=rows,
            max_queue_requests=queue,
            max_wait_ms=2,
            admission=admission,
            drain_timeout_s=0.05,
        )
        self.sent: list[Sent] = []
        self.draining: asyncio.Task[bool] | None = None

    @rule(
        kind=st.sampled_from(["unary", "batch", "stream", "slow stream"]),
        prompt=st.integers(1, 40),
        max_tokens=st.integers(1, 60),
        n=st.sampled_from([1, 1, 1, 3]),
        priority=st.integers(-2, 2),
        deadline_s=st.sampled_from([None, None, None, 0.001, 0.01, 0.05]),
        time_limit_ms=st.sampled_from([0, 0, 0, 1, 10, 40]),
        name=st.sampled_from(["", "", "", "twin"]),
    )
    def arrive(
        self,
        kind: str,
        prompt: int,
        max_tokens: int,
        n: int,
        priority: int,
        deadline_s: float | None,
        time_limit_ms: int,
        name: str,
    ) -> None:
        message = generation(
            "x" * prompt,
            max_tokens,
            sampling=pb.Sampling(n=n),
            priority=priority,
            time_limit_ms=time_limit_ms,
            request_id=name or f"call {len(self.sent)}",
        )
        sent = Sent(message, kind, deadline_s)
        sent.task = self.server.spawn(sent.run(self.server.stub))
        self.sent.append(sent)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sent = data.draw(st.sampled_from(self.sent))
        sent.cancelled = True

        async def cancel() -> None:
            if sent.task is not None:
                sent.task.cancel()

        self.server.run(cancel())

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), everything=st.booleans())
    def abort(self, data: st.DataObject, everything: bool) -> None:
        chosen = data.draw(st.sampled_from(self.sent))
        for sent in self.sent:
            if everything or sent.generation.request_id == chosen.generation.request_id:
                sent.aborted = True
        request = pb.AbortRequest(all=everything, request_ids=[chosen.generation.request_id])

        async def abort() -> pb.AbortResponse:
            answer: pb.AbortResponse = await self.server.stub.Abort(request)
            return answer

        assert self.server.run(abort()).aborted <= len(self.sent)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def read_on(self, data: st.DataObject) -> None:
        sent = data.draw(st.sampled_from(self.sent))

        async def release() -> None:
            sent.slow.set()

        self.server.run(release())

    @rule(units=st.integers(1, 8))
    def time_passes(self, units: int) -> None:
        for _ in range(units * ROUND_TRIPS):
            load = self.server.run(self._load())
            assert 0 <= load.pages_used <= load.pages_total

    @precondition(lambda self: self.draining is None and len(self.sent) > 5)
    @rule()
    def drain(self) -> None:
        self.draining = self.server.spawn(self.server.app.drain(asyncio.Event()))

    def teardown(self) -> None:
        if not hasattr(self, "server"):
            return
        try:
            self.server.run(self._settle())
            ids = [sent.generation.request_id for sent in self.sent]
            for sent in self.sent:
                twins = ids.count(sent.generation.request_id)
                sent.check(drained=self.draining is not None, ids=twins)
        finally:
            self.server.close()

    async def _load(self) -> pb.GetLoadResponse:
        load: pb.GetLoadResponse = await self.server.stub.GetLoad(pb.GetLoadRequest())
        return load

    async def _settle(self) -> None:
        """Lets every call come to its end; then nothing is left anywhere."""
        for sent in self.sent:
            sent.slow.set()
        await asyncio.gather(*(sent.task for sent in self.sent if sent.task is not None))
        if self.draining is not None:
            await self.draining
        app = self.server.app
        assert app.engine is not None and app._hub is not None
        door = app.engine._door
        while (load := await self._load()).running or load.waiting or app._hub.request_ids:
            pass
        assert load.pages_used == 0
        assert (door._waiting.total(), door._tokens) == (0, 0)
        assert await app._listener.answered(WAIT_S), "a call is still being answered"


TestAnyOrder = ServerMachine.TestCase
TestAnyOrder.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shorter steps take other turns
    suppress_health_check=[HealthCheck.too_slow],
)
