"""The service without its transport: checked drafts in, deltas out. Belongs to one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, TypeVar

from .completion import Completion, Delta
from .engine_port import EnginePort
from .errors import EngineFailure, InvalidRequest, Violation
from .guidance import Guides
from .job import Conversation, Draft, Job, Limits
from .request import Finish, FinishReason, ModelInfo, Output
from .stops import StopSet
from .stream import OutputStream
from .tokenizer import ChatTemplateError, Tokenizer

# Shorter texts are encoded where they are: handing them over would take longer.
_LONG_TEXT = 2_000

T = TypeVar("T")


class Observer(Protocol):
    """Told what metrics are made of."""

    def made(self, tokens: int, seconds: float) -> None:
        """A completion gained tokens, so long after its earlier ones."""
        ...

    def ended(self, finish: Finish) -> None: ...

    def left(self, reason: FinishReason) -> None:
        """A completion's caller went away before its end."""
        ...


class Frontend:
    """Prepares jobs and runs them on the engine."""

    def __init__(
        self,
        engine: EnginePort,
        tokenizer: Tokenizer,
        model: ModelInfo,
        limits: Limits,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
        guides: Guides | None = None,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.model = model
        self.limits = limits
        self.clock = clock
        self._observer = observer
        self._guides = guides
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="paceline-encode")
        # One at a time, beside the texts: a constraint made to be hard can take seconds to refuse.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="paceline-constraint")

    async def prepare(self, draft: Draft, *, arrival: float, deadline: float | None) -> Job:
        """Encodes the prompt, long ones off the loop, and tries out the constraint.

        InvalidRequest if the prompt is empty or does not fit, or the constraint is wrong.
        """
        prompt = draft.prompt
        if isinstance(prompt, tuple):
            ids = list(prompt)
        elif isinstance(prompt, str):
            ids = await self.encode(prompt)
        else:
            ids = await self.encode_chat(prompt, draft.prompt_field)
        job = draft.job(ids, self.limits, arrival=arrival, deadline=deadline)
        if self._guides is not None and draft.constraint is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._compiler, self._guides.check, draft.constraint)
        return job

    async def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return await self.offload(
            len(text), lambda: self.tokenizer.encode(text, add_special_tokens)
        )

    async def encode_chat(self, chat: Conversation, field: str) -> list[int]:
        """The conversation's ids. InvalidRequest under `field` where the model's template refuses it."""
        size = sum(len(content) for _, content in chat.messages)
        try:
            return await self.offload(
                size,
                lambda: self.tokenizer.encode_chat(chat.messages, chat.continue_final_message),
            )
        except ChatTemplateError as exc:
            raise InvalidRequest(Violation(f"{field}.messages", str(exc))) from exc

    async def offload(self, size: int, work: Callable[[], T]) -> T:
        """The result of `work`, done on a thread if `size` characters make it long."""
        if size < _LONG_TEXT:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def start(self, job: Job) -> Generation:
        """Submits a job. Raises what `EnginePort.start` raises."""
        try:
            stream = await self.engine.start(job.request)
        except asyncio.CancelledError:
            self.left(job, job.request.n)
            raise
        return Generation(self, job, stream, self._observer)

    def left(self, job: Job, completions: int) -> None:
        """The caller went away, or its deadline passed, before so many completions ended."""
        late = job.request.late(self.clock())
        for _ in range(completions):
            self._observer.left(FinishReason.TIME_LIMIT if late else FinishReason.CANCELLED)

    def close(self) -> None:
        for pool in (self._pool, self._compiler):
            pool.shutdown(wait=False, cancel_futures=True)


class Generation:
    """A job that runs: an async iterator of lists of deltas, each list all that was ready.

    Use it in a `with` block: leaving it early cancels the job. An error of a completion is raised.
    """

    def __init__(
        self, frontend: Frontend, job: Job, stream: OutputStream, observer: Observer
    ) -> None:
        self.job = job
        self._frontend = frontend
        self._stream = stream
        self._observer = observer
        stops = StopSet(job.stop)
        self._completions = [
            Completion(job, index, frontend.tokenizer, stops) for index in range(job.request.n)
        ]
        self._last = [0.0] * job.request.n

    @property
    def finishes(self) -> list[Finish]:
        """How the completions that ended did."""
        return [c.finish for c in self._completions if c.finish is not None]

    def echo(self) -> list[Delta]:
        """The prompt, once for each completion, if it was asked for."""
        return [c.echo() for c in self._completions] if self.job.response.echo else []

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()
        if isinstance(exc, (asyncio.CancelledError, GeneratorExit)):
            self._frontend.left(self.job, self.job.request.n - len(self.finishes))

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> list[Delta]:
        ready = await anext(self._stream)
        if self.job.request.n == 1:
            delta = self._take(0, ready)
            return [] if delta is None else [delta]
        groups: dict[int, list[Output]] = {}
        for output in ready:
            groups.setdefault(output.index, []).append(output)
        deltas = (self._take(index, outputs) for index, outputs in groups.items())
        return [delta for delta in deltas if delta is not None]

    def _take(self, index: int, outputs: list[Output]) -> Delta | None:
        completion = self._completions[index]
        was_matched = completion.matched
        delta = completion.take(outputs)
        if completion.matched and not was_matched and completion.finish is None:
            self._frontend.engine.cancel(self.job.request.id, index=index)
        if delta is not None:
            self._observe(delta)
        if completion.finish is not None:
            self._raise_error(completion.finish)
        return delta

    def _observe(self, delta: Delta) -> None:
        now = self._frontend.clock()
        if delta.num_tokens and delta.offset:
            self._observer.made(delta.num_tokens, now - self._last[delta.index])
        self._last[delta.index] = now
        if delta.finish is not None:
            self._observer.ended(delta.finish)

    def _raise_error(self, finish: Finish) -> None:
        if finish.error is not None:
            raise finish.error
        if finish.reason is FinishReason.ERROR:
            raise EngineFailure("unknown")
