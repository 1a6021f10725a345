"""Bad input gets INVALID_ARGUMENT with the field's path, and neighbours in the batch are unharmed."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mock_serving import Gate, Served, generation, serving
from paceline.server.mock import MockRunner
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb

GENERATE = "/paceline.v1.GenerationService/Generate"
STREAM = "/paceline.v1.GenerationService/GenerateStream"
INVALID = grpc.StatusCode.INVALID_ARGUMENT

S, T, R = pb.Sampling, pb.Stopping, pb.ResponseOptions
CHAT = pb.Chat(messages=[pb.ChatMessage(role="<|end|>", content="x")])
PIRATE = pb.Chat(messages=[pb.ChatMessage(role="pirate", content="x")])
BAD: dict[str, tuple[pb.Generation, str]] = {
    "no input": (pb.Generation(), "generation.input"),
    "empty text": (generation(text=""), "generation.text"),
    "no ids": (generation(token_ids=pb.TokenIds()), "generation.token_ids"),
    "no messages": (generation(chat=pb.Chat()), "generation.chat.messages"),
    "long text": (generation("one two " * 4000), "generation.text"),
    "long ids": (generation(token_ids=pb.TokenIds(ids=[5] * 2048)), "generation.token_ids"),
    "id range": (
        generation(token_ids=pb.TokenIds(ids=[5, 4_000_000_000])),
        "generation.token_ids.ids[1]",
    ),
    "messages": (
        generation(chat=pb.Chat(messages=[pb.ChatMessage(role="user")] * 4097)),
        "generation.chat.messages",
    ),
    "bad role": (generation(chat=CHAT), "generation.chat.messages[0].role"),
    "unknown role": (generation(chat=PIRATE), "generation.chat.messages"),
    "cold": (generation(sampling=S(temperature=-0.5)), "generation.sampling.temperature"),
    "nan": (generation(sampling=S(temperature=math.nan)), "generation.sampling.temperature"),
    "hot": (generation(sampling=S(temperature=math.inf)), "generation.sampling.temperature"),
    "tiny": (generation(sampling=S(temperature=1e-30)), "generation.sampling.temperature"),
    "top_p > 1": (generation(sampling=S(top_p=1.5)), "generation.sampling.top_p"),
    "top_p 0": (generation(sampling=S(top_p=0.0)), "generation.sampling.top_p"),
    "top_p nan": (generation(sampling=S(top_p=math.nan)), "generation.sampling.top_p"),
    "min_p": (generation(sampling=S(min_p=-0.1)), "generation.sampling.min_p"),
    "repetition": (
        generation(sampling=S(repetition_penalty=0.0)),
        "generation.sampling.repetition_penalty",
    ),
    "presence": (
        generation(sampling=S(presence_penalty=2.5)),
        "generation.sampling.presence_penalty",
    ),
    "frequency": (
        generation(sampling=S(frequency_penalty=-math.inf)),
        "generation.sampling.frequency_penalty",
    ),
    "bias id": (
        generation(sampling=S(logit_bias={9999: 1.0})),
        "generation.sampling.logit_bias[9999]",
    ),
    "bias size": (
        generation(sampling=S(logit_bias={5: 101.0})),
        "generation.sampling.logit_bias[5]",
    ),
    "n 0": (generation(sampling=S(n=0)), "generation.sampling.n"),
    "n million": (generation(sampling=S(n=1_000_000)), "generation.sampling.n"),
    "no tokens": (
        pb.Generation(text="x", stopping=T(max_tokens=0)),
        "generation.stopping.max_tokens",
    ),
    "min > max": (generation(stopping=T(min_tokens=9)), "generation.stopping.min_tokens"),
    "stops": (generation(stopping=T(stop=["x"] * 10_000)), "generation.stopping.stop"),
    "empty stop": (generation(stopping=T(stop=["a", ""])), "generation.stopping.stop[1]"),
    "long stop": (generation(stopping=T(stop=["é" * 129])), "generation.stopping.stop[0]"),
    "stop ids": (
        generation(stopping=T(stop_token_ids=[5] * 65)),
        "generation.stopping.stop_token_ids",
    ),
    "stop id": (
        generation(stopping=T(stop_token_ids=[5, 999_999])),
        "generation.stopping.stop_token_ids[1]",
    ),
    "logprobs": (generation(response=R(logprobs=21)), "generation.response.logprobs"),
    "prompt logprobs": (
        generation(response=R(prompt_logprobs=21)),
        "generation.response.prompt_logprobs",
    ),
    "priority": (generation(priority=101), "generation.priority"),
    "long id": (generation(request_id="x" * 129), "generation.request_id"),
    "control id": (generation(request_id="a\nb"), "generation.request_id"),
    "constraint": (generation(constraint=pb.Constraint()), "generation.constraint.kind"),
}


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def fields(error: grpc.aio.AioRpcError) -> list[str]:
    """The field paths of a BadRequest."""
    status = rpc_status.from_call(error)
    assert status is not None
    (detail,) = status.details
    bad = error_details_pb2.BadRequest()
    assert detail.Unpack(bad)
    assert all(violation.description for violation in bad.field_violations)
    return [violation.field for violation in bad.field_violations]


async def read_all(call: Any) -> None:
    async for _ in call:
        pass


@pytest.fixture
async def shared(tokenizer: Tokenizer) -> Any:
    """One server for a whole run of bad calls."""
    async with serving(tokenizer) as running:
        yield running


async def test_every_bad_field_is_named(shared: Served) -> None:
    """Each bad value ends the call with the path of its field, unary and streaming, and the server goes on."""
    for name, (message, field) in BAD.items():
        unary = await failure(shared.stub.Generate(pb.GenerateRequest(generation=message)))
        assert (unary.code(), fields(unary)) == (INVALID, [field]), name
        call = shared.stub.GenerateStream(pb.GenerateStreamRequest(generation=message))
        streamed = await failure(read_all(call))
        assert (streamed.code(), fields(streamed)) == (INVALID, [field]), name
    good = await shared.stub.Generate(pb.GenerateRequest(generation=generation()))
    assert good.result.usage.completion_tokens == 8
    load = await shared.idle()
    assert load.requests_finished == 1


async def test_neighbours_of_bad_calls_are_unharmed(tokenizer: Tokenizer) -> None:
    """A stream that runs while every bad call arrives gives exactly what it gives alone."""
    message = generation(max_tokens=300, response=R(token_ids=True))
    async with serving(tokenizer) as served:
        alone = await served.stub.Generate(pb.GenerateRequest(generation=message))
    gate = Gate(steps=20)
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    async with serving(tokenizer, runner) as served:
        running = served.stub.Generate(pb.GenerateRequest(generation=message))
        bad = [bad for bad, _ in BAD.values()]
        batch = served.stub.GenerateBatch(pb.GenerateBatchRequest(generations=bad))
        await served.until(lambda load: load.steps >= 20)
        gate.open()
        items = (await batch).items
        assert {item.error.code for item in items} == {INVALID.value[0]}
        beside = await running
    assert beside.result.completions[0].token_ids == alone.result.completions[0].token_ids


async def test_all_violations_are_told_at_once(served: Served) -> None:
    """Several bad fields come back together, in the order of the message."""
    message = pb.Generation(
        text="x", sampling=S(temperature=-1.0, top_p=2.0), stopping=T(stop=[""])
    )
    error = await failure(served.stub.Generate(pb.GenerateRequest(generation=message)))
    assert set(fields(error)) == {
        "generation.sampling.temperature",
        "generation.sampling.top_p",
        "generation.stopping.stop[0]",
    }


async def test_a_flood_of_violations_still_fits_the_trailers(served: Served) -> None:
    """Ten thousand bad ids are reported by the first few."""
    message = generation(token_ids=pb.TokenIds(ids=[4_000_000_000] * 10_000))
    error = await failure(served.stub.Generate(pb.GenerateRequest(generation=message)))
    assert error.code() == INVALID
    assert fields(error)[0] == "generation.token_ids.ids[0]"
    assert len(fields(error)) <= 16


@pytest.mark.parametrize("method", [GENERATE, STREAM])
@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"\x0a\x04\x0a\x02\xff\xfe", "generation.text"),
        (b"\x0a\x06\x1a\x04\x0a\x02\x0a\x00\x0a\x05\x3a\x03a\xc3(", "generation.request_id"),
        (b"\x0a\x07\x2a\x05\x1a\x00\x1a\x01\xff", "generation.stopping.stop[1]"),
        (b"\x0a\x50\x0a", "request"),
        (b"\xff\xff\xff\xff\xff", "request"),
    ],
)
async def test_bytes_that_do_not_parse(
    served: Served, method: str, data: bytes, field: str
) -> None:
    """Invalid UTF-8 and garbage on the wire are the caller's fault, by field, and the server goes on."""
    identity = {
        "request_serializer": lambda payload: payload,
        "response_deserializer": lambda payload: payload,
    }
    if method == STREAM:
        error = await failure(read_all(served.channel.unary_stream(method, **identity)(data)))
    else:
        error = await failure(served.channel.unary_unary(method, **identity)(data))
    assert error.code() == INVALID
    assert fields(error) == [field]
    good = await served.stub.Generate(pb.GenerateRequest(generation=generation()))
    assert good.result.usage.completion_tokens == 8


async def test_fields_from_the_future_are_passed_over(served: Served) -> None:
    """A newer client's unknown fields and enum numbers do no harm."""
    data = pb.GenerateRequest(generation=generation()).SerializeToString() + b"\xf8\x07\x63"
    call = served.channel.unary_unary(
        GENERATE,
        request_serializer=lambda payload: payload,
        response_deserializer=pb.GenerateResponse.FromString,
    )
    assert (await call(data)).result.usage.completion_tokens == 8


async def test_messages_over_four_mebibytes_are_refused(served: Served) -> None:
    """gRPC itself refuses what is too large, and the server goes on."""
    message = generation("x" * (4 * 1024 * 1024 + 1))
    error = await failure(served.stub.Generate(pb.GenerateRequest(generation=message)))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    await served.stub.GetLoad(pb.GetLoadRequest())


async def test_too_many_items(served: Served) -> None:
    """A batch has at most 1024 items."""
    request = pb.GenerateBatchRequest(generations=[generation()] * 1025)
    assert fields(await failure(served.stub.GenerateBatch(request))) == ["generations"]


async def test_features_that_are_not_there(tokenizer: Tokenizer) -> None:
    """What this server cannot do is FAILED_PRECONDITION, said in words: no model without an end is guided."""
    runner = MockRunner(vocab_size=tokenizer.vocab_size)
    runner.info = dataclasses.replace(runner.info, eos_token_ids=())
    message = generation(constraint=pb.Constraint(regex="a"))
    async with serving(tokenizer, runner) as served:
        error = await failure(served.stub.Generate(pb.GenerateRequest(generation=message)))
        info = await served.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "guided decoding" in (error.details() or "")
    assert "guided_decoding" not in info.features


BAD_CONSTRAINTS = [
    (pb.Constraint(), "kind"),
    (pb.Constraint(regex=""), "regex"),
    (pb.Constraint(regex="a(b"), "regex"),
    (pb.Constraint(regex="a" * 4097), "regex"),
    (pb.Constraint(json_schema="{"), "json_schema"),
    (pb.Constraint(json_schema=" " * 32_769), "json_schema"),
    (pb.Constraint(choice=pb.Choice()), "choice.options"),
    (pb.Constraint(choice=pb.Choice(options=["a"] * 1001)), "choice.options"),
    (pb.Constraint(choice=pb.Choice(options=["a" * 4000] * 9)), "choice.options"),
    (pb.Constraint(choice=pb.Choice(options=["a", ""])), "choice.options[1]"),
]


async def test_constraints_are_checked(served: Served) -> None:
    """What is wrong with a constraint is found before anything is computed, and its path is named."""
    for constraint, field in BAD_CONSTRAINTS:
        message = generation(constraint=constraint)
        error = await failure(served.stub.Generate(pb.GenerateRequest(generation=message)))
        assert fields(error) == [f"generation.constraint.{field}"]
    assert (await served.load()).steps == 0


async def test_chat_needs_a_template(word_tokenizer: Tokenizer) -> None:
    """A model without a chat template says so."""
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="x")])
    runner = MockRunner(vocab_size=word_tokenizer.vocab_size)
    async with serving(word_tokenizer, runner) as served:
        calls = (
            served.stub.Generate(pb.GenerateRequest(generation=generation(chat=chat))),
            served.stub.Tokenize(pb.TokenizeRequest(chat=chat)),
        )
        for call in calls:
            assert (await failure(call)).code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_tokenize_and_detokenize_name_their_fields(served: Served) -> None:
    """The other methods check their input too."""
    nothing = await failure(served.stub.Tokenize(pb.TokenizeRequest()))
    assert fields(nothing) == ["input"]
    unknown = await failure(served.stub.Detokenize(pb.DetokenizeRequest(token_ids=[5, 999_999])))
    assert fields(unknown) == ["token_ids[1]"]
    pirate = await failure(served.stub.Tokenize(pb.TokenizeRequest(chat=PIRATE)))
    assert fields(pirate) == ["chat.messages"]


async def test_a_request_id_in_flight_is_refused(tokenizer: Tokenizer) -> None:
    """Two requests of one id cannot run at once; the first is unharmed, and later the id is free again."""
    gate = Gate()
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    request = pb.GenerateRequest(generation=generation(request_id="twin"))
    async with serving(tokenizer, runner) as served:
        first = asyncio.ensure_future(served.stub.Generate(request))
        await served.until(lambda load: "twin" in served.in_flight)
        assert fields(await failure(served.stub.Generate(request))) == ["generation.request_id"]
        gate.open()
        assert (await first).result.usage.completion_tokens == 8
        await served.stub.Generate(request)


async def test_a_prompt_that_can_never_be_queued(tokenizer: Tokenizer) -> None:
    """n times the prompt over the queue's bound is told as such, not as a full queue."""
    async with serving(tokenizer, max_queue_tokens=10) as served:
        message = generation("one two three", sampling=S(n=5))
        error = await failure(served.stub.Generate(pb.GenerateRequest(generation=message)))
        assert fields(error) == ["generation.text"]


async def test_a_fault_of_ours_is_internal_without_its_text(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception reaches the caller as a fixed text and an error id; the log has the rest."""

    def explode(step: object) -> None:
        raise RuntimeError("secret of the model")

    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=explode)
    async with serving(tokenizer, runner) as served:
        error = await failure(served.stub.Generate(pb.GenerateRequest(generation=generation())))
        assert error.code() == grpc.StatusCode.INTERNAL
        details = error.details() or ""
        assert details.startswith("internal error ")
        assert "secret" not in str(error.trailing_metadata()) + details
        assert details.removeprefix("internal error ") in caplog.text
        assert "secret of the model" in caplog.text


async def test_a_fault_of_the_front_end_is_internal_too(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a method raises, in a unary call or in a stream."""

    def explode(*_: object) -> None:
        raise KeyError("secret of the front end")

    assert served.app._frontend is not None
    monkeypatch.setattr(served.app._frontend, "start", explode)
    request = pb.GenerateStreamRequest(generation=generation())
    for call in (
        served.stub.Generate(pb.GenerateRequest(generation=generation())),
        read_all(served.stub.GenerateStream(request)),
    ):
        error = await failure(call)
        assert error.code() == grpc.StatusCode.INTERNAL
        assert "secret" not in (error.details() or "")
        assert (error.details() or "").removeprefix("internal error ") in caplog.text
    assert "secret of the front end" in caplog.text
