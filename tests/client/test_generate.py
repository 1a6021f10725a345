"""Whole answers: what is asked reaches the server as the contract says, and comes back as typed values."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import grpc
import pytest

from paceline.client import (
    AsyncClient,
    Client,
    Finish,
    FinishReason,
    Generation,
    InvalidRequest,
    Item,
    Prompt,
    Timings,
    Usage,
)
from paceline.v1 import generation_pb2 as pb
from scripted_server import WAIT_S, ScriptedServer, answer


class TestGenerate:
    def test_returns_the_typed_answer(self, server: ScriptedServer) -> None:
        """Text, finish, usage, timings and seed of the answer are frozen values."""
        server.handlers["Generate"] = lambda request, context: answer("hello")

        with Client(server.target) as client:
            generation = client.generate("Say hello.")

        assert generation.text == "hello"
        assert generation.finish_reason is FinishReason.EOS
        assert generation.usage == Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1)
        assert generation.timings == Timings(1.5, 0.0, 0.0, 0.0, 9.0, 0.0, 4, 0)
        assert (generation.request_id, generation.model, generation.seed) == ("r1", "scripted", 7)
        with pytest.raises(dataclasses.FrozenInstanceError):
            generation.seed = 8  # type: ignore[misc]  # the point of the test

    async def test_async_client_returns_the_same(self, server: ScriptedServer) -> None:
        """Both clients turn the same message into equal values."""
        server.handlers["Generate"] = lambda request, context: answer("hello")

        async with AsyncClient(server.target) as client:
            from_async = await client.generate("Say hello.")
        with Client(server.target) as client_sync:
            from_sync = client_sync.generate("Say hello.")

        assert from_sync == from_async

    def test_sends_nothing_that_was_not_given(self, server: ScriptedServer) -> None:
        """A bare prompt leaves every default to the server."""
        server.handlers["Generate"] = lambda request, context: answer()

        with Client(server.target) as client:
            client.generate("x", max_tokens=None)  # type: ignore[arg-type]  # None: not given

        assert server.calls[0].request == pb.GenerateRequest(generation=pb.Generation(text="x"))

    def test_puts_every_option_into_its_field(self, server: ScriptedServer) -> None:
        """Each keyword argument lands in the field the contract has for it."""
        server.handlers["Generate"] = lambda request, context: answer()

        with Client(server.target) as client:
            client.generate(
                [5, 6, 7],
                temperature=0.0,
                top_k=40,
                top_p=0.5,
                min_p=0.25,
                repetition_penalty=1.5,
                presence_penalty=0.5,
                frequency_penalty=-0.5,
                logit_bias={9: -100.0},
                seed=11,
                n=2,
                max_tokens=12,
                min_tokens=3,
                stop="END",
                stop_token_ids=[1, 2],
                include_stop=True,
                ignore_eos=True,
                return_text=False,
                return_token_ids=True,
                logprobs=4,
                echo=True,
                skip_special_tokens=False,
                choice=["yes", "no"],
                request_id="mine",
                priority=-5,
                time_limit_ms=900,
                truncate_prompt_tokens=100,
            )

        expected = pb.Generation(
            token_ids=pb.TokenIds(ids=[5, 6, 7]),
            sampling=pb.Sampling(
                temperature=0.0,
                top_k=40,
                top_p=0.5,
                min_p=0.25,
                repetition_penalty=1.5,
                presence_penalty=0.5,
                frequency_penalty=-0.5,
                logit_bias={9: -100.0},
                seed=11,
                n=2,
            ),
            stopping=pb.Stopping(
                max_tokens=12,
                min_tokens=3,
                stop=["END"],
                stop_token_ids=[1, 2],
                include_stop=True,
                ignore_eos=True,
            ),
            response=pb.ResponseOptions(
                text=False, token_ids=True, logprobs=4, echo=True, skip_special_tokens=False
            ),
            constraint=pb.Constraint(choice=pb.Choice(options=["yes", "no"])),
            request_id="mine",
            priority=-5,
            time_limit_ms=900,
            truncate_prompt_tokens=100,
        )
        assert server.calls[0].request.generation == expected

    def test_sends_a_conversation(self, server: ScriptedServer) -> None:
        """A list of messages becomes a chat, with its own option."""
        server.handlers["Generate"] = lambda request, context: answer()

        with Client(server.target) as client:
            client.generate(
                [{"role": "user", "content": "Hi"}],
                continue_final_message=True,
                json_schema={"type": "object"},
            )

        generation = server.calls[0].request.generation
        assert generation.chat == pb.Chat(
            messages=[pb.ChatMessage(role="user", content="Hi")], continue_final_message=True
        )
        assert generation.constraint.json_schema == '{"type": "object"}'

    def test_unknown_stop_details_are_none(self, server: ScriptedServer) -> None:
        """A finish says which stop string or token it was, and None where there was none."""
        finishes: list[dict[str, Any]] = [
            {"reason": pb.FINISH_REASON_STOP_SEQUENCE, "stop_sequence": "END"},
            {"reason": pb.FINISH_REASON_STOP_TOKEN, "stop_token_id": 0},
            {"reason": 99},
        ]
        server.handlers["Generate"] = lambda request, context: answer("x", **finishes.pop(0))

        with Client(server.target) as client:
            got = [client.generate("x").completions[0].finish for _ in range(3)]

        assert got == [
            Finish(FinishReason.STOP_SEQUENCE, "END", None),
            Finish(FinishReason.STOP_TOKEN, None, 0),
            Finish(FinishReason.UNKNOWN, None, None),
        ]


class TestBadArguments:
    @pytest.mark.parametrize(
        ("options", "path"),
        [
            ({"top_k": -1}, "generation.sampling.top_k"),
            ({"seed": 2**64}, "generation.sampling.seed"),
            ({"stop": ["\ud800"]}, "generation.stopping.stop"),
            ({"logit_bias": {-1: 1.0}}, "generation.sampling.logit_bias"),
        ],
    )
    def test_values_no_message_can_hold_name_their_field(
        self, options: dict[str, Any], path: str
    ) -> None:
        """What protobuf refuses is an InvalidRequest with the path the server would use."""
        with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequest) as caught:
            client.generate("x", **options)

        assert [violation.field for violation in caught.value.violations] == [path]

    @pytest.mark.parametrize(
        ("prompt", "options", "match"),
        [
            ("x", {"temprature": 1}, "unknown option 'temprature'"),
            ("x", {"temperature": "hot"}, "temperature"),
            ("x", {"continue_final_message": True}, "needs a conversation"),
            (7, {}, "a prompt is"),
            ([{"role": "user"}], {}, r"messages\[0\]"),
            (["a", "b"], {}, "token_ids"),
        ],
    )
    def test_wrong_types_raise_before_anything_is_sent(
        self, prompt: Any, options: dict[str, Any], match: str
    ) -> None:
        """A mistake of the program is a TypeError that names it."""
        with Client("127.0.0.1:1") as client, pytest.raises(TypeError, match=match):
            client.generate(prompt, **options)


class TestBatch:
    def test_items_keep_their_order_options_and_errors(self, server: ScriptedServer) -> None:
        """An item's options win over the batch's; its error stands in its place."""

        def handler(request: pb.GenerateBatchRequest, context: object) -> pb.GenerateBatchResponse:
            violation = pb.FieldViolation(field="generations[1].text", description="is empty")
            error = pb.ItemError(code=3, message="bad item", violations=[violation])
            good = pb.BatchItem(result=answer("first").result)
            return pb.GenerateBatchResponse(items=[good, pb.BatchItem(error=error)])

        server.handlers["GenerateBatch"] = handler

        with Client(server.target) as client:
            first, second = client.batch(["one", Item("", max_tokens=9)], max_tokens=5, top_k=3)

        sent = server.calls[0].request.generations
        assert [each.stopping.max_tokens for each in sent] == [5, 9]
        assert [each.sampling.top_k for each in sent] == [3, 3]
        assert isinstance(first, Generation)
        assert first.text == "first"
        assert isinstance(second, InvalidRequest)
        assert second.violations[0].field == "generations[1].text"

    async def test_async_batch(self, server: ScriptedServer) -> None:
        """The asyncio client batches alike."""
        good = pb.BatchItem(result=answer("only").result)
        server.handlers["GenerateBatch"] = lambda request, context: pb.GenerateBatchResponse(
            items=[good]
        )

        async with AsyncClient(server.target) as client:
            (only,) = await client.batch(["one"])

        assert isinstance(only, Generation)
        assert only.text == "only"

    async def test_progress_sends_each_alone_and_keeps_order(self, server: ScriptedServer) -> None:
        """With progress, prompts are calls of their own, few at a time; answers and errors stay in order."""
        room, met = threading.Semaphore(2), threading.Barrier(2)

        def handler(request: pb.GenerateRequest, context: grpc.ServicerContext) -> object:
            assert room.acquire(blocking=False), "more than two at a time"
            met.wait(WAIT_S)  # and no fewer
            room.release()
            if not request.generation.text:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "is empty")
            return answer(request.generation.text)

        server.handlers["Generate"] = handler
        prompts: list[Prompt | Item] = ["one", Item("", max_tokens=9), "three", "four"]
        heard: list[tuple[int, int]] = []

        def progress(done: int, total: int) -> None:
            heard.append((done, total))

        with Client(server.target) as client:
            found = client.batch(prompts, progress=progress, in_flight=2, max_tokens=5)
        async with AsyncClient(server.target) as asynchronous:
            same = await asynchronous.batch(prompts, progress=progress, in_flight=2)

        assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2
        assert {call.request.generation.stopping.max_tokens for call in server.calls[:4]} == {5, 9}
        for one, bad, three, four in (found, same):
            assert isinstance(bad, InvalidRequest)
            assert [getattr(each, "text", "") for each in (one, three, four)] == [
                *("one", "three", "four")
            ]

    def test_a_raising_progress_ends_the_batch(self, server: ScriptedServer) -> None:
        """An error of the callback is the caller's own, and what still ran is cancelled."""

        def handler(request: pb.GenerateRequest, context: grpc.ServicerContext) -> object:
            if request.generation.text == "slow":
                gone = threading.Event()
                context.add_callback(gone.set)
                assert gone.wait(WAIT_S)
            return answer()

        def progress(done: int, total: int) -> None:
            raise KeyError(done)

        server.handlers["Generate"] = handler
        with Client(server.target) as client, pytest.raises(KeyError):
            client.batch(["quick", "slow"], progress=progress)


def test_a_client_shows_where_it_leads_but_no_token() -> None:
    """The representation names the address, and that there is a token, not which."""
    with Client("127.0.0.1:1", token="secret") as client:
        assert repr(client) == "Client('127.0.0.1:1', plaintext, token)"
        assert "secret" not in repr(vars(client))
