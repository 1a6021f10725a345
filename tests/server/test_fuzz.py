"""Messages that nobody would send on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from hypothesis import HealthCheck, given, settings

from background_server import BackgroundServer
from fuzzing import FLAGS, FORBIDDEN, Input, inputs, send
from paceline.server.mock_loader import load_mock
from paceline.server.settings import read


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """A server with a small context, so that no accepted message costs much."""
    config = read(list(FLAGS))
    server = BackgroundServer(
        load_mock(config), max_context_tokens=config.max_context_tokens, log_level="error"
    )
    yield server.target
    server.close()


@pytest.fixture(scope="module")
def channel(target: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target) as made:
        yield made


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(given_input=inputs())
def test_no_message_breaks_the_server(channel: grpc.Channel, given_input: Input) -> None:
    """Whatever the bytes: an answer or a refusal that says what is wrong, never a fault of the server's."""
    assert send(channel, given_input) not in FORBIDDEN
