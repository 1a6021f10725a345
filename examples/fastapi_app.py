"""A web service in front of Paceline: JSON or server-sent events, with the caller's deadline, and cancelled with it.

    pip install fastapi uvicorn
    python examples/fastapi_app.py [--port 8080] [--target HOST:PORT]
    curl -N localhost:8080/stream -H 'content-type: application/json' -d '{"prompt": "The sky is"}'

`x-timeout-s: 2.5` sets a deadline, which travels to the server. Who hangs up ends the work there within a step.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import uvicorn
from fastapi import FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from paceline.client import (
    DEFAULT_TARGET,
    AsyncClient,
    Chunk,
    DeadlineExceeded,
    FeatureUnavailable,
    InvalidRequest,
    PacelineError,
    QueueFull,
    Unavailable,
)

T = TypeVar("T")
STATUSES: dict[type[PacelineError], int] = {
    InvalidRequest: 400,
    FeatureUnavailable: 400,
    QueueFull: 429,
    Unavailable: 503,
    DeadlineExceeded: 504,
}
Timeout = Annotated[float, Header(alias="x-timeout-s", gt=0)]


class Question(BaseModel):
    prompt: str
    max_tokens: int = 64


def make_app(target: str) -> FastAPI:
    """The application; its client is made at the start, on the event loop that uses it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncClient(target) as client:
            app.state.client = client
            yield

    app = FastAPI(title="Paceline behind HTTP", lifespan=lifespan)
    app.add_exception_handler(PacelineError, refuse)
    app.post("/complete")(complete)
    app.post("/stream")(stream)
    return app


async def complete(question: Question, request: Request, timeout_s: Timeout = 30) -> Response:
    client: AsyncClient = request.app.state.client
    work = client.generate(question.prompt, max_tokens=question.max_tokens, timeout_s=timeout_s)
    answer = await unless_gone(request, work)
    return JSONResponse({"text": answer.text, "finish": answer.finish_reason.value})


async def stream(question: Question, request: Request, timeout_s: Timeout = 30) -> Response:
    client: AsyncClient = request.app.state.client
    call = client.stream(question.prompt, max_tokens=question.max_tokens, timeout_s=timeout_s)
    chunks = aiter(call)
    # With the first chunk the HTTP status is certain: what fails before it is not a 200.
    first = await unless_gone(request, anext(chunks))

    async def events() -> AsyncIterator[str]:
        # When the caller hangs up, this generator is cancelled, and so is the call.
        async with call:
            try:
                yield event(first)
                async for chunk in chunks:
                    yield event(chunk)
            except PacelineError as error:
                yield f"event: error\ndata: {json.dumps({'code': error.code})}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def event(chunk: Chunk) -> str:
    data: dict[str, Any] = {"text": chunk.text}
    if chunk.finish is not None:
        data["finish"] = chunk.finish.reason.value
    return f"data: {json.dumps(data)}\n\n"


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the caller hangs up first."""

    async def hang_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, gone = asyncio.ensure_future(work), asyncio.create_task(hang_up())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise asyncio.CancelledError
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


def refuse(request: Request, error: Exception) -> Response:
    """A failed call as an HTTP answer."""
    assert isinstance(error, PacelineError)
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    status = STATUSES.get(type(error), 502)
    return JSONResponse({"code": error.code, "error": str(error)}, status, headers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--target", default=DEFAULT_TARGET)
    arguments = parser.parse_args()
    uvicorn.run(make_app(arguments.target), port=arguments.port)
