"""The service's methods: messages in, checked; domain values out, as messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

from . import rpc_convert as convert
from .errors import Unavailable
from .frontend import Frontend
from .glimpse import Ended
from .job import Conversation, Job
from .logs import RequestRecord
from .request import Finish
from .rpc_errors import item_error, public_error
from .server_info import ServerInfo
from .tracing import Tracing
from .validation import (
    MAX_BATCH_ITEMS,
    Checks,
    check_generation,
    check_prompt,
    require_chat,
    skip_special,
)

SERVICE = "paceline.v1.GenerationService"
REQUESTS: dict[str, Any] = {
    "Generate": pb.GenerateRequest,
    "GenerateStream": pb.GenerateStreamRequest,
    "GenerateBatch": pb.GenerateBatchRequest,
    "Tokenize": pb.TokenizeRequest,
    "Detokenize": pb.DetokenizeRequest,
    "GetModelInfo": pb.GetModelInfoRequest,
    "GetServerInfo": pb.GetServerInfoRequest,
    "GetLoad": pb.GetLoadRequest,
    "Abort": pb.AbortRequest,
}


class Context(Protocol):
    """The part of grpc.aio's context that is used here."""

    def time_remaining(self) -> float | None: ...
    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]] | None: ...
    def peer(self) -> str: ...


class Observer(Protocol):
    """Told how requests ended."""

    def answered(self, status: str, refusal: str) -> None: ...
    def request(self, ended: Ended) -> None: ...


class GenerationService(rpc.GenerationServiceServicer):
    """Answers with Unavailable until `open`, that is until the model is loaded and warm."""

    def __init__(self, observer: Observer, tracing: Tracing | None = None) -> None:
        self._tracing = tracing
        self._frontend: Frontend | None = None
        self._info: ServerInfo | None = None
        self._observer = observer

    def open(self, frontend: Frontend, info: ServerInfo) -> None:
        """Answers from now on."""
        self._frontend, self._info = frontend, info

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        result = await self._result("Generate", request.generation, context)
        return pb.GenerateResponse(result=result)

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Any
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        frontend = self._ready()
        with self._record("GenerateStream", context) as record:
            job = await self._job(request.generation, context)
            record.job = job
            with await frontend.start(job) as generation:
                record.running = generation
                yield pb.GenerateStreamResponse(header=_header(job, frontend))
                for delta in generation.echo():
                    yield convert.stream_message(delta, job, frontend.tokenizer)
                async for deltas in generation:
                    messages = [
                        convert.stream_message(delta, job, frontend.tokenizer) for delta in deltas
                    ]
                    if len(generation.finishes) == job.request.n:
                        messages[-1].summary.CopyFrom(_summary(generation.finishes))
                    for message in messages:
                        yield message

    async def GenerateBatch(
        self, request: pb.GenerateBatchRequest, context: Any
    ) -> pb.GenerateBatchResponse:
        checks = Checks("")
        checks.at_most(len(request.generations), MAX_BATCH_ITEMS, "generations")
        checks.finish()
        self._ready()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._item(generation, context))
                for generation in request.generations
            ]
        return pb.GenerateBatchResponse(items=[task.result() for task in tasks])

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        frontend, checks = self._ready(), Checks("")
        prompt, field = check_prompt(request, frontend.limits, checks)
        checks.finish()
        require_chat(request, frontend.limits)
        if isinstance(prompt, Conversation):
            ids = await frontend.encode_chat(prompt, field)
            return _token_response(ids, frontend, request.details)
        assert isinstance(prompt, str)
        special = request.add_special_tokens if request.HasField("add_special_tokens") else True
        if not request.details:
            return pb.TokenizeResponse(token_ids=await frontend.encode(prompt, special))
        details = await frontend.offload(
            len(prompt), lambda: frontend.tokenizer.details(prompt, special)
        )
        return pb.TokenizeResponse(
            token_ids=details.ids,
            tokens=details.tokens,
            offsets=[pb.Span(start=start, end=end) for start, end in details.offsets],
        )

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Any
    ) -> pb.DetokenizeResponse:
        frontend, checks = self._ready(), Checks("")
        checks.token_ids(request.token_ids, frontend.limits.vocab_size, "token_ids")
        checks.finish()
        ids, skip = list(request.token_ids), skip_special(request)
        text = await frontend.offload(len(ids), lambda: frontend.tokenizer.decode(ids, skip))
        return pb.DetokenizeResponse(text=text)

    async def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: Any
    ) -> pb.GetModelInfoResponse:
        frontend = self._ready()
        return convert.model_message(
            frontend.model,
            context=frontend.limits.max_context,
            chat=frontend.limits.has_chat_template,
        )

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Any
    ) -> pb.GetServerInfoResponse:
        self._ready()
        assert self._info is not None
        return self._info.message()

    async def GetLoad(self, request: pb.GetLoadRequest, context: Any) -> pb.GetLoadResponse:
        return convert.load_message(await self._ready().engine.load())

    async def Abort(self, request: pb.AbortRequest, context: Any) -> pb.AbortResponse:
        ids = None if request.all else set(request.request_ids)
        return pb.AbortResponse(aborted=await self._ready().engine.abort(ids))

    def _ready(self) -> Frontend:
        if self._frontend is None:
            raise Unavailable("the model is loading")
        return self._frontend

    def _record(self, method: str, context: Context) -> RequestRecord:
        observer = self._observer
        record = RequestRecord(method, context.peer(), observer.answered, observer.request)
        if self._tracing is not None:
            metadata = context.invocation_metadata() or ()
            self._tracing.follow(record, metadata, self._ready().model.name)
        return record

    async def _job(self, generation: pb.Generation, context: Context) -> Job:
        frontend = self._ready()
        arrival = frontend.clock()
        draft = check_generation(generation, frontend.limits)
        remaining = context.time_remaining()
        deadline = None if remaining is None else arrival + remaining
        return await frontend.prepare(draft, arrival=arrival, deadline=deadline)

    async def _result(
        self, method: str, generation: pb.Generation, context: Context
    ) -> pb.GenerationResult:
        frontend = self._ready()
        with self._record(method, context) as record:
            job = await self._job(generation, context)
            record.job = job
            with await frontend.start(job) as running:
                record.running = running
                deltas = running.echo()
                async for ready in running:
                    deltas += ready
            return convert.result_message(
                deltas, running.finishes, job, frontend.model.name, frontend.tokenizer
            )

    async def _item(self, generation: pb.Generation, context: Context) -> pb.BatchItem:
        try:
            return pb.BatchItem(result=await self._result("GenerateBatch", generation, context))
        except Exception as exc:
            return pb.BatchItem(error=item_error(public_error(exc)))


def _header(job: Job, frontend: Frontend) -> pb.StreamHeader:
    return pb.StreamHeader(
        request_id=job.request.id,
        model=frontend.model.name,
        seed=job.request.sampling.seed,
        prompt_tokens=len(job.request.prompt_ids),
    )


def _summary(finishes: list[Finish]) -> pb.StreamSummary:
    return pb.StreamSummary(
        usage=convert.usage_message(convert.total_usage(finishes)),
        timings=convert.timings_message(convert.total_timings(finishes)),
    )


def _token_response(ids: list[int], frontend: Frontend, details: bool) -> pb.TokenizeResponse:
    tokens = [frontend.tokenizer.token_text(token) for token in ids] if details else ()
    return pb.TokenizeResponse(token_ids=ids, tokens=tokens)
