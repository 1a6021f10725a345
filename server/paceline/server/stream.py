"""Hands outputs from the engine's thread to asyncio: one hop a step, whatever the number of streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType

from .errors import InvalidRequest, Violation
from .request import Output

Cancel = Callable[[str], None]


class Hub:
    """The streams of all requests that the engine knows, by request id.

    Everything but `deliver` belongs to the loop's thread. A stream whose reader has left stays known until
    the engine has ended its completions: no output of an old request can reach a new one of the same id.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._streams: dict[str, OutputStream] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._streams

    @property
    def request_ids(self) -> tuple[str, ...]:
        """The requests in flight."""
        return tuple(self._streams)

    def open(self, request_id: str, completions: int, cancel: Cancel) -> OutputStream:
        """A stream for a request that is about to be submitted. InvalidRequest if the id is in flight."""
        if request_id in self._streams:
            raise InvalidRequest(
                Violation("generation.request_id", "a request with this id is in flight")
            )
        stream = OutputStream(request_id, completions, cancel)
        self._streams[request_id] = stream
        return stream

    def forget(self, stream: OutputStream) -> None:
        """Undoes `open` for a request that the engine refused."""
        stream.close(cancel=False)
        del self._streams[stream.request_id]

    def fail(self, stream: OutputStream, error: Exception) -> None:
        """Ends a stream with `error`: for a request that no engine will end."""
        stream.fail(error)
        del self._streams[stream.request_id]

    def deliver(self, outputs: list[Output]) -> None:
        """Takes the outputs of one step, on any thread."""
        # The loop may be closed when the very last outputs come; then nobody waits for them.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.dispatch, outputs)

    def fail_all(self, error: Exception) -> None:
        """Ends every stream with `error`: for an engine that will not end them itself."""
        for stream in self._streams.values():
            stream.fail(error)
        self._streams.clear()

    def dispatch(self, outputs: Iterable[Output]) -> None:
        """Shares outputs out; on the loop's thread."""
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            stream.put(output)
            if stream.unfinished == 0:
                del self._streams[output.request_id]


class OutputStream:
    """Outputs of one request, an async iterator of lists: each list is all that was ready.

    What its reader has not taken is kept; a request's `max_tokens` bounds it. Leaving the `with` block before
    all completions ended cancels the request, once.
    """

    def __init__(self, request_id: str, completions: int, cancel: Cancel) -> None:
        self.request_id = request_id
        self.unfinished = completions
        self.begun = False  # whether there ever was an output
        self.closed = False  # whether its reader has left
        self._cancel = cancel
        self._ready: list[Output] = []
        self._waiter: asyncio.Future[None] | None = None  # of the reader, while nothing is ready
        self._error: Exception | None = None

    def cancel_by(self, cancel: Cancel) -> None:
        """Another engine has the request now."""
        self._cancel = cancel

    def put(self, output: Output) -> None:
        """Adds an output; on the loop's thread."""
        self.begun = True
        if output.finish is not None:
            self.unfinished -= 1
        if not self.closed:
            self._ready.append(output)
            self._wake()

    def fail(self, error: Exception) -> None:
        """Makes the reader raise `error` after what is ready."""
        self._error = error
        self.unfinished = 0
        self._wake()

    def close(self, cancel: bool = True) -> None:
        """Takes no more outputs and, unless all completions ended, cancels the request. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._ready.clear()
        if cancel and self.unfinished:
            self._cancel(self.request_id)

    def __enter__(self) -> OutputStream:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> OutputStream:
        return self

    async def __anext__(self) -> list[Output]:
        while not self._ready:
            if self._error is not None:
                raise self._error
            if self.closed or not self.unfinished:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        ready, self._ready = self._ready, []
        return ready

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
