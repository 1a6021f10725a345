"""Every method of the service, over real gRPC."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

from mock_serving import Gate, Served, generation, paced, scripted, serving
from paceline.server.mock import MockRunner
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb

MAX_TOKENS = pb.FINISH_REASON_MAX_TOKENS


async def generate(served: Served, message: pb.Generation) -> pb.GenerationResult:
    response: pb.GenerateResponse = await served.stub.Generate(
        pb.GenerateRequest(generation=message)
    )
    return response.result


async def stream(served: Served, message: pb.Generation) -> list[pb.GenerateStreamResponse]:
    call = served.stub.GenerateStream(pb.GenerateStreamRequest(generation=message))
    return [response async for response in call]


async def test_generate_answers_in_one_message(served: Served, tokenizer: Tokenizer) -> None:
    """Text, ids, counts, finish, seed and timings of one completion agree with each other."""
    options = pb.ResponseOptions(token_ids=True)
    result = await generate(served, generation(response=options, request_id="mine"))
    (completion,) = result.completions
    assert result.request_id == "mine"
    assert result.model == "mock"
    assert completion.finish.reason == MAX_TOKENS
    assert completion.num_tokens == len(completion.token_ids) == 8
    assert completion.text == tokenizer.decode(list(completion.token_ids))
    assert result.usage.prompt_tokens == len(tokenizer.encode("one two"))
    assert result.usage.completion_tokens == 8
    assert result.timings.total_ms >= result.timings.ttft_ms > 0
    assert result.timings.batch_rows_max == 1
    assert not completion.logprobs


async def test_stream_is_the_unary_answer_in_pieces(served: Served) -> None:
    """Header first, offsets without a gap, one finish, summary last; joined it is Generate's answer."""
    message = generation(max_tokens=50, response=pb.ResponseOptions(token_ids=True))
    whole = await generate(served, message)
    header, *deltas = await stream(served, message)
    assert header.header.prompt_tokens == whole.usage.prompt_tokens
    assert header.num_tokens == 0
    offset = 0
    for delta in deltas:
        assert delta.offset == offset
        assert len(delta.token_ids) == delta.num_tokens
        offset += delta.num_tokens
    (completion,) = whole.completions
    assert "".join(delta.text for delta in deltas) == completion.text
    assert [token for delta in deltas for token in delta.token_ids] == completion.token_ids
    assert [delta.finish.reason for delta in deltas if delta.HasField("finish")] == [MAX_TOKENS]
    assert [delta.HasField("summary") for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    assert deltas[-1].summary.usage.completion_tokens == 50


async def test_a_message_carries_everything_ready(tokenizer: Tokenizer) -> None:
    """While nobody reads, tokens gather: far fewer messages than tokens arrive."""
    async with serving(tokenizer) as served:
        call = served.stub.GenerateStream(
            pb.GenerateStreamRequest(generation=generation(max_tokens=1500))
        )
        await served.until(lambda load: load.requests_finished == 1)
        messages = [message async for message in call]
        assert sum(message.num_tokens for message in messages) == 1500
        assert len(messages) < 1500


async def test_tokens_in_are_used_as_they_are(served: Served, tokenizer: Tokenizer) -> None:
    """Ids of a text give the text's answer."""
    ids = tokenizer.encode("one two")
    by_text = await generate(served, generation())
    by_ids = await generate(served, generation(token_ids=pb.TokenIds(ids=ids)))
    assert by_ids.completions[0].text == by_text.completions[0].text


async def test_chat_uses_the_models_template(served: Served, tokenizer: Tokenizer) -> None:
    """A conversation is encoded by the template, as Tokenize does it."""
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="one two")])
    result = await generate(served, generation(chat=chat))
    assert result.usage.prompt_tokens == len(tokenizer.encode_chat([("user", "one two")]))
    tokens = await served.stub.Tokenize(pb.TokenizeRequest(chat=chat))
    assert list(tokens.token_ids) == tokenizer.encode_chat([("user", "one two")])


async def test_n_completions_have_their_own_seeds(served: Served) -> None:
    """n completions come with index, finish and consecutive seeds; usage counts the prompt once."""
    sampling = pb.Sampling(n=3, seed=2**64 - 2)
    result = await generate(served, generation(sampling=sampling))
    assert [completion.index for completion in result.completions] == [0, 1, 2]
    assert [completion.seed for completion in result.completions] == [2**64 - 2, 2**64 - 1, 0]
    assert result.seed == 2**64 - 2
    assert result.usage.completion_tokens == 24
    assert result.usage.prompt_tokens == 2
    messages = await stream(served, generation(sampling=sampling))
    ends = [message.index for message in messages if message.HasField("finish")]
    assert sorted(ends) == [0, 1, 2]
    assert sum(message.HasField("summary") for message in messages) == 1


async def test_seed_is_echoed_even_when_the_server_drew_it(served: Served) -> None:
    """A seed of the caller comes back; without one, each answer names another."""
    given = await generate(served, generation(sampling=pb.Sampling(seed=7)))
    drawn = [await generate(served, generation()) for _ in range(2)]
    assert given.seed == given.completions[0].seed == 7
    assert drawn[0].seed != drawn[1].seed
    (header, *_) = await stream(served, generation(sampling=pb.Sampling(seed=0)))
    assert header.header.seed == 0


@pytest.mark.parametrize("n", [1, 2])
async def test_echo_begins_with_the_prompt(served: Served, tokenizer: Tokenizer, n: int) -> None:
    """Echo puts the prompt's text and ids first, and does not count them as generated."""
    options = pb.ResponseOptions(echo=True, token_ids=True)
    sampling = pb.Sampling(n=n)
    result = await generate(served, generation(response=options, sampling=sampling))
    messages = await stream(served, generation(response=options, sampling=sampling))
    prompt = tokenizer.encode("one two")
    for completion in result.completions:
        assert completion.text.startswith("one two")
        assert completion.token_ids[: len(prompt)] == prompt
        assert completion.num_tokens == 8
        mine = [m for m in messages if m.index == completion.index]
        assert "".join(message.text for message in mine) == completion.text
        assert sum(message.num_tokens for message in mine) == 8


async def test_text_can_be_left_out(served: Served) -> None:
    """With text off only ids travel."""
    options = pb.ResponseOptions(text=False, token_ids=True)
    result = await generate(served, generation(response=options))
    assert result.completions[0].text == ""
    assert len(result.completions[0].token_ids) == 8


async def test_logprobs_name_their_tokens(served: Served, tokenizer: Tokenizer) -> None:
    """Each token has its log-probability and the asked-for alternatives, with ids and texts."""
    options = pb.ResponseOptions(logprobs=2, token_ids=True)
    result = await generate(served, generation(response=options))
    (completion,) = result.completions
    assert [entry.chosen.token_id for entry in completion.logprobs] == completion.token_ids
    for entry in completion.logprobs:
        assert entry.chosen.token == tokenizer.token_text(entry.chosen.token_id)
        assert [top.token_id for top in entry.top] == [3, 4]
        assert [top.logprob for top in entry.top] == [-1.0, -2.0]
    none = await generate(served, generation(response=pb.ResponseOptions(logprobs=0)))
    assert len(none.completions[0].logprobs) == 8
    assert not none.completions[0].logprobs[0].top


@pytest.mark.parametrize("include", [False, True])
async def test_stop_string_across_tokens(tokenizer: Tokenizer, include: bool) -> None:
    """A stop string cut by token borders ends the answer, is named, and costs no more tokens than it took."""
    runner = MockRunner(
        vocab_size=tokenizer.vocab_size,
        choose=scripted(tokenizer, "one two STOP here "),
        on_step=paced(0.002),  # or all is made before the match is heard of
    )
    stopping = pb.Stopping(stop=["zzz", "o STOP h"], include_stop=include)
    options = pb.ResponseOptions(token_ids=True, logprobs=0)
    message = generation(max_tokens=500, stopping=stopping, response=options)
    async with serving(tokenizer, runner) as served:
        result = await generate(served, message)
        pieces = await stream(served, message)
        load = await served.idle()
    (completion,) = result.completions
    assert completion.finish.reason == pb.FINISH_REASON_STOP_SEQUENCE
    assert completion.finish.stop_sequence == "o STOP h"
    assert completion.text == "one tw" + ("o STOP h" if include else "")
    assert tokenizer.decode(list(completion.token_ids)).startswith("one two STOP h")
    assert completion.num_tokens == len(completion.token_ids) == len(completion.logprobs)
    assert result.usage.completion_tokens == completion.num_tokens
    assert "".join(piece.text for piece in pieces) == completion.text
    assert sum(piece.num_tokens for piece in pieces) == completion.num_tokens
    assert load.output_tokens < 500


async def test_stop_string_ends_only_its_own_completion(tokenizer: Tokenizer) -> None:
    """Of n completions the others go on."""
    words = {0: "STOP now ", 1: "one two three "}
    runner = MockRunner(
        vocab_size=tokenizer.vocab_size,
        choose=lambda sequence: scripted(tokenizer, words[sequence.index])(sequence),
    )
    stopping = pb.Stopping(stop=["STOP"])
    async with serving(tokenizer, runner) as served:
        result = await generate(
            served, generation(max_tokens=40, stopping=stopping, sampling=pb.Sampling(n=2))
        )
    reasons = [completion.finish.reason for completion in result.completions]
    assert reasons == [pb.FINISH_REASON_STOP_SEQUENCE, MAX_TOKENS]
    assert result.completions[0].text == ""
    assert result.completions[1].num_tokens == 40


async def test_stop_token_is_named_and_left_out_of_the_text(tokenizer: Tokenizer) -> None:
    """The stop token is generated and counted; its text is kept only on demand."""
    three = tokenizer.encode(" three")
    runner = MockRunner(
        vocab_size=tokenizer.vocab_size, choose=scripted(tokenizer, "one two three")
    )
    async with serving(tokenizer, runner) as served:
        for include in (False, True):
            stopping = pb.Stopping(stop_token_ids=[three[-1]], include_stop=include)
            result = await generate(served, generation(max_tokens=40, stopping=stopping))
            (completion,) = result.completions
            assert completion.finish.reason == pb.FINISH_REASON_STOP_TOKEN
            assert completion.finish.stop_token_id == three[-1]
            last = tokenizer.token_text(three[-1])
            assert completion.text + ("" if include else last) == "one two three"


async def test_end_of_sequence_ends_unless_ignored(tokenizer: Tokenizer) -> None:
    """The model's own end-of-sequence token is a finish of its own, and can be passed over."""
    runner = MockRunner(
        vocab_size=tokenizer.vocab_size,
        choose=lambda sequence: 2 if sequence.num_output == 3 else 70,
    )
    async with serving(tokenizer, runner) as served:
        ended = await generate(served, generation(max_tokens=10))
        assert ended.completions[0].finish.reason == pb.FINISH_REASON_EOS
        assert ended.usage.completion_tokens == 4
        ignored = await generate(
            served, generation(max_tokens=10, stopping=pb.Stopping(ignore_eos=True))
        )
        assert ignored.completions[0].finish.reason == MAX_TOKENS


async def test_context_limit_is_a_finish(tokenizer: Tokenizer) -> None:
    """More tokens asked for than the context leaves: the answer ends with CONTEXT_LIMIT."""
    runner = MockRunner(vocab_size=tokenizer.vocab_size, max_context_tokens=64)
    async with serving(tokenizer, runner) as served:
        result = await generate(served, generation(max_tokens=4_000_000_000))
        assert result.completions[0].finish.reason == pb.FINISH_REASON_CONTEXT_LIMIT
        assert result.usage.prompt_tokens + result.usage.completion_tokens == 64


async def test_prompt_is_truncated_from_the_left(served: Served, tokenizer: Tokenizer) -> None:
    """Only the last tokens of the prompt stay."""
    whole = tokenizer.encode("one two three four five six")
    result = await generate(
        served,
        generation(
            "one two three four five six",
            truncate_prompt_tokens=2,
            response=pb.ResponseOptions(echo=True, token_ids=True),
        ),
    )
    assert result.usage.prompt_tokens == 2
    assert result.completions[0].token_ids[:2] == whole[-2:]


async def test_batch_keeps_order_and_errors_apart(served: Served) -> None:
    """Good and bad items each get what they would have got alone, in their order."""
    items = [
        generation("one"),
        generation(sampling=pb.Sampling(top_p=3.0)),
        generation("two", max_tokens=3),
        generation(text=""),
        generation(constraint=pb.Constraint(regex="a{2,}"), max_tokens=3),
        generation(constraint=pb.Constraint(regex="(a")),
    ]
    response = await served.stub.GenerateBatch(pb.GenerateBatchRequest(generations=items))
    first, bad, second, empty, guided, wrong = response.items
    alone = await generate(served, items[0])
    assert first.result.completions[0].text == alone.completions[0].text
    assert second.result.usage.completion_tokens == 3
    assert bad.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert [v.field for v in bad.error.violations] == ["generation.sampling.top_p"]
    assert [v.field for v in empty.error.violations] == ["generation.text"]
    assert guided.result.completions[0].text == "aaa"
    assert [v.field for v in wrong.error.violations] == ["generation.constraint.regex"]


async def test_empty_batch_is_empty(served: Served) -> None:
    """No items, no error."""
    response = await served.stub.GenerateBatch(pb.GenerateBatchRequest())
    assert list(response.items) == []


async def test_batch_item_that_fails_inside_fails_alone(tokenizer: Tokenizer) -> None:
    """A fault of the model in one item's step leaves the items that joined later alone."""

    def choose(sequence: object) -> int:
        raise RuntimeError("secret of the model")

    runner = MockRunner(vocab_size=tokenizer.vocab_size)
    normal = runner._choose
    runner._choose = lambda s: choose(s) if s.request.id == "bad" else normal(s)
    async with serving(tokenizer, runner, mode="sequential") as served:
        response = await served.stub.GenerateBatch(
            pb.GenerateBatchRequest(
                generations=[generation(), generation(request_id="bad"), generation()]
            )
        )
        good, bad, later = response.items
        assert good.result.usage.completion_tokens == 8
        assert later.result.usage.completion_tokens == 8
        assert bad.error.code == grpc.StatusCode.INTERNAL.value[0]
        assert "secret" not in str(bad.error)


async def test_tokenize_and_detokenize(served: Served, tokenizer: Tokenizer) -> None:
    """Ids are the tokenizer's; details point into the text; and ids become the text again."""
    text = "one two 😀"
    plain = await served.stub.Tokenize(pb.TokenizeRequest(text=text))
    assert list(plain.token_ids) == tokenizer.encode(text)
    assert not plain.tokens
    detailed = await served.stub.Tokenize(pb.TokenizeRequest(text=text, details=True))
    assert detailed.token_ids == plain.token_ids
    assert len(detailed.tokens) == len(detailed.offsets) == len(plain.token_ids)
    assert text[detailed.offsets[0].start : detailed.offsets[0].end] == detailed.tokens[0]
    back = await served.stub.Detokenize(pb.DetokenizeRequest(token_ids=[0, *plain.token_ids]))
    assert back.text == text
    special = await served.stub.Detokenize(
        pb.DetokenizeRequest(token_ids=[0], skip_special_tokens=False)
    )
    assert special.text == "<|start|>"
    assert not (await served.stub.Tokenize(pb.TokenizeRequest(text=""))).token_ids


async def test_long_text_is_encoded_like_short(served: Served, tokenizer: Tokenizer) -> None:
    """A text long enough to be encoded on another thread gives the same ids."""
    text = "the wind and the others " * 400
    response = await served.stub.Tokenize(pb.TokenizeRequest(text=text))
    assert list(response.token_ids) == tokenizer.encode(text)


async def test_model_info(served: Served, tokenizer: Tokenizer) -> None:
    """The model's limits are told."""
    info = await served.stub.GetModelInfo(pb.GetModelInfoRequest())
    assert (info.name, info.vocab_size) == ("mock", tokenizer.vocab_size)
    assert info.max_context_tokens == 2048
    assert list(info.eos_token_ids) == [2]
    assert info.has_chat_template


async def test_server_info(tokenizer: Tokenizer) -> None:
    """Mode, bounds and versions are those the server runs with."""
    async with serving(tokenizer, mode="dynamic", max_batch_size=4, max_wait_ms=7) as served:
        info = await served.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert info.mode == pb.BATCHING_MODE_DYNAMIC
    assert (info.max_batch_size, info.max_wait_ms) == (4, 7.0)
    assert info.default_max_tokens == 256
    assert info.num_pages > 0
    assert {"python", "grpcio", "platform"} <= set(info.versions)
    assert "chat" in info.features


async def test_load_counts_what_was_done(served: Served) -> None:
    """Counters move by what a request cost; gauges return to zero."""
    before = await served.load()
    result = await generate(served, generation(max_tokens=5))
    after = await served.idle()
    assert after.output_tokens - before.output_tokens == 5
    assert after.prompt_tokens - before.prompt_tokens == result.usage.prompt_tokens
    assert after.requests_finished - before.requests_finished == 1
    assert after.time_s > before.time_s
    assert after.pages_total > 0
    assert not after.draining


async def test_abort_ends_requests_with_what_they_made(tokenizer: Tokenizer) -> None:
    """Abort finds requests by id, and they end with OK, ABORTED and their tokens so far; twice is no error."""
    gate = Gate(steps=5)
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    async with serving(tokenizer, runner) as served:
        call = served.stub.GenerateStream(
            pb.GenerateStreamRequest(generation=generation(max_tokens=2000, request_id="long"))
        )
        messages = aiter(call)
        header, first = [await anext(messages) for _ in range(2)]
        aborted = await served.stub.Abort(pb.AbortRequest(request_ids=["long", "long", "unknown"]))
        gate.open()
        rest = [message async for message in messages]
        assert (header.header.request_id, first.offset) == ("long", 0)
        assert aborted.aborted == 1
        assert rest[-1].finish.reason == pb.FINISH_REASON_ABORTED
        made = sum(message.num_tokens for message in (first, *rest))
        assert 5 <= rest[-1].summary.usage.completion_tokens == made < 10
        again = await served.stub.Abort(pb.AbortRequest(request_ids=["long"]))
        assert again.aborted == 0
        await served.idle()


async def test_abort_all_and_none(tokenizer: Tokenizer) -> None:
    """`all` ends everything in flight; an empty request ends nothing."""
    gate = Gate()
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    async with serving(tokenizer, runner) as served:
        calls = [asyncio.ensure_future(generate(served, generation())) for _ in range(3)]
        await served.until(lambda load: len(served.in_flight) == 3)
        assert (await served.stub.Abort(pb.AbortRequest())).aborted == 0
        assert (await served.stub.Abort(pb.AbortRequest(all=True))).aborted == 3
        gate.open()
        for result in await asyncio.gather(*calls):
            assert result.completions[0].finish.reason == pb.FINISH_REASON_ABORTED


@pytest.mark.parametrize("ahead", [False, True])
async def test_constraints_hold_on_the_wire(tokenizer: Tokenizer, ahead: bool) -> None:
    """Every completion is one of the choices, or JSON of the schema; with steps launched ahead too."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    constraints = [
        pb.Constraint(choice=pb.Choice(options=["yes", "no"])),
        pb.Constraint(json_schema=json.dumps(schema | {"additionalProperties": False})),
    ]
    runner = MockRunner(vocab_size=tokenizer.vocab_size, ahead=ahead)
    async with serving(tokenizer, runner) as served:
        free = generation("alone", 40)
        alone = (await generate(served, free)).completions[0].text
        calls = [generation("x", 40, constraint=c, sampling=pb.Sampling(n=4)) for c in constraints]
        choice, record, neighbour = await asyncio.gather(
            *(generate(served, call) for call in [*calls, free])
        )
    assert {completion.text for completion in choice.completions} <= {"yes", "no"}
    assert all(isinstance(json.loads(c.text)["ok"], bool) for c in record.completions)
    assert neighbour.completions[0].text == alone
    reasons = {c.finish.reason for result in (choice, record) for c in result.completions}
    assert reasons == {pb.FINISH_REASON_EOS}


async def test_prompt_logprobs_and_echo(served: Served) -> None:
    """The prompt comes first, and its log-probabilities once, in the answer and in the stream alike."""
    response = pb.ResponseOptions(echo=True, token_ids=True, logprobs=1, prompt_logprobs=2)
    message = generation("one two", 3, response=response, sampling=pb.Sampling(n=2))
    result = await generate(served, message)
    entries = list(result.prompt_logprobs)
    assert len(entries) == result.usage.prompt_tokens
    assert not entries[0].HasField("chosen")
    ids = list(result.completions[0].token_ids)[: len(entries)]
    assert [entry.chosen.token_id for entry in entries[1:]] == ids[1:]
    assert all(len(entry.top) == 2 for entry in entries[1:])
    for completion in result.completions:
        assert completion.text.startswith("one two")
        assert len(completion.logprobs) == completion.num_tokens == 3
    carrying = [each for each in await stream(served, message) if each.prompt_logprobs]
    assert [list(each.prompt_logprobs) for each in carrying] == [entries]
    assert carrying[0].offset == 0 and carrying[0].index == 0
