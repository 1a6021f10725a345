"""One call on the wire, against a scripted server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from loadgen.conftest import ScriptedServer
from paceline.loadgen.call import Call
from paceline.loadgen.grpc_wire import GrpcWire, wire_request
from paceline.loadgen.outcomes import outcome
from paceline.loadgen.prompt import Prompt, Turn
from paceline.loadgen.timing import Record


@pytest.fixture
def wire(own_server: ScriptedServer) -> Iterator[GrpcWire]:
    """A connection to the scripted server."""
    made = GrpcWire(own_server.target, 1)
    yield made
    made.close()


def run(wire: GrpcWire, prompt: Prompt, timeout_s: float = 20.0) -> tuple[Call, Record]:
    call = Call(prompt, 0, 1, "measure", time.perf_counter)
    call.run(wire, timeout_s)
    return call, call.record(mode="m", worker=0)


def test_a_planned_cancel_reaches_the_server(own_server: ScriptedServer, wire: GrpcWire) -> None:
    """A reader that leaves after five tokens ends the stream on the server too, and nothing has failed."""
    script = json.dumps({"gap_ms": 5.0})
    call, record = run(wire, Prompt("a", script, max_tokens=1_000_000, cancel_after=5))
    assert record.cancelled_by_plan and record.status == "CANCELLED" and not record.cut
    assert outcome(record) == "cancelled_by_plan" and not call.failed and call.ended
    assert record.counted_tokens == 5 and not record.gap
    assert own_server.until_idle().requests_rejected == 1
    assert own_server.load().output_tokens < 1000


def test_a_cancel_after_the_end_changes_nothing(own_server: ScriptedServer, wire: GrpcWire) -> None:
    """An answer shorter than the planned cancel comes to its own end."""
    _, record = run(wire, Prompt("a", "hello", max_tokens=4, cancel_after=9))
    assert record.ok and not record.cancelled_by_plan
    assert own_server.until_idle().requests_rejected == 0


def test_a_missed_deadline_is_no_failure(own_server: ScriptedServer, wire: GrpcWire) -> None:
    """The request's own deadline ends the call on both sides and is its own class."""
    script = json.dumps({"first_ms": 60_000.0})
    call, record = run(wire, Prompt("a", script, deadline_s=0.2))
    assert record.status == "DEADLINE_EXCEEDED" and record.deadline_s == 0.2
    assert record.missed_deadline and outcome(record) == "missed_deadline"
    assert not call.failed and call.ended
    assert own_server.until_idle().requests_rejected == 1


def test_the_runs_own_time_limit_is_a_failure(wire: GrpcWire) -> None:
    """A call without a deadline of its own that runs out of the run's time limit has failed."""
    script = json.dumps({"first_ms": 60_000.0})
    call, record = run(wire, Prompt("a", script), timeout_s=0.2)
    assert record.status == "DEADLINE_EXCEEDED" and not record.missed_deadline
    assert outcome(record) == "failed" and call.failed


def test_the_next_turn_holds_the_servers_answer(own_server: ScriptedServer, wire: GrpcWire) -> None:
    """What the server wrote comes back to it, word for word, in the request of the next turn."""
    opening = Prompt("a", "User: hi\nAssistant:", max_tokens=3, turns=(Turn("User: go on", 2),))
    call, first = run(wire, opening)
    following = call.prompt.next_turn(call.answer)
    assert call.answer == "word word word " and following is not None
    assert wire_request(following).generation.text == (
        "User: hi\nAssistant:word word word \nUser: go on"
    )
    _, second = run(wire, following)
    assert (first.kind, second.kind) == ("turn 1", "turn 2")
    assert (first.prompt_tokens, second.prompt_tokens) == (3, 8)  # words, as this server counts
    assert second.output_tokens == 2


def test_the_record_says_what_was_asked(wire: GrpcWire) -> None:
    """Kind, priority and deadline of the request stand in its record, and survive its file."""
    prompt = Prompt("a", "hello", max_tokens=2, kind="vip", priority=-7, deadline_s=30.0)
    _, record = run(wire, prompt)
    assert (record.kind, record.priority, record.deadline_s) == ("vip", -7, 30.0)
    assert Record.from_json(record.to_json()) == record


def test_the_context_of_the_served_model(own_server: ScriptedServer, wire: GrpcWire) -> None:
    """The server says how many tokens its model holds; from one that is gone nothing is known."""
    assert wire.context_tokens(5.0) == 2048
    gone = GrpcWire("127.0.0.1:1", 1)
    assert gone.context_tokens(0.5) == 0
    gone.close()
