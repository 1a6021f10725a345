"""Paceline on a real Ray, through Serve's own proxy. Takes a minute and needs the extra `ray`: `make test-ray`."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from paceline.client import Client, DeadlineExceeded, FinishReason, InvalidRequest
from paceline.loadgen.probe import Probe
from paceline.server import settings
from paceline.server.errors import SetupError

pytestmark = [
    pytest.mark.skipif("PACELINE_TEST_RAY" not in os.environ, reason="make test-ray runs it"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # Ray has its own
]
YAML = Path(__file__).parent.parent.parent / "deploy" / "ray" / "paceline.yaml"
ROWS = 4


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """Where Serve's proxy offers a replica with a mock."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray must not phone home
    import ray
    from ray import serve
    from ray.serve.config import gRPCOptions

    from paceline.server.ray_serve import SERVICERS, deployment

    with (
        socket.create_server(("127.0.0.1", 0)) as free,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        port, http = free.getsockname()[1], {"host": "127.0.0.1", "port": other.getsockname()[1]}
    flags = ["--mock", "--mock-tokens-per-s", "100", "--max-batch-size", str(ROWS)]
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        offered = gRPCOptions(port=port, grpc_servicer_functions=SERVICERS)
        serve.start(http_options=http, grpc_options=offered)
        serve.run(deployment(flags).options(graceful_shutdown_timeout_s=1).bind(flags))
        yield f"127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.fixture
def client(target: str) -> Iterator[Client]:
    with Client(target, attempts=1) as client:
        yield client


def test_every_call_is_answered(client: Client) -> None:
    """The client's methods work as with a server of our own."""
    with client.stream("x", max_tokens=5) as stream:
        assert sum(chunk.num_tokens for chunk in stream) == 5
    assert stream.finish is not None
    assert stream.finish.reason is FinishReason.MAX_TOKENS
    assert client.generate("x", max_tokens=5).usage.completion_tokens == 5
    assert len(client.batch(["x", "y"], max_tokens=2)) == 2
    assert client.detokenize(client.tokenize("abc").ids) == "abc"
    assert client.model_info().name == "mock"
    assert client.server_info().max_batch_size == ROWS
    assert client.load().output_tokens > 0
    assert client.abort("unknown") == 0


def test_the_load_generator_takes_it_for_a_server(target: str) -> None:
    """Its probe finds health SERVING, and the server's facts."""
    with Probe(target) as probe:
        probe.check()
        assert probe.server()["max_batch_size"] == ROWS


def test_errors_keep_their_details(client: Client) -> None:
    """A bad field is INVALID_ARGUMENT with the field's path, in unary calls and in streams."""
    with pytest.raises(InvalidRequest) as unary:
        client.generate("x", top_p=2)
    with pytest.raises(InvalidRequest) as stream:
        list(client.stream("x", top_p=2))

    for error in (unary.value, stream.value):
        assert [v.field for v in error.violations] == ["generation.sampling.top_p"]


def test_work_stops_when_the_caller_leaves(client: Client) -> None:
    """A cancelled stream, and a call whose deadline passed, free their rows."""
    with client.stream("x", max_tokens=3000) as stream:
        chunks = iter(stream)
        next(chunks)
        assert client.load().running
    while client.load().running:
        pass
    with pytest.raises(DeadlineExceeded):
        client.generate("x", max_tokens=3000, timeout_s=0.5)
    while client.load().running:
        pass


def test_the_yaml_deploys_what_the_module_builds() -> None:
    """Serve takes the file and builds it; it offers all services, and replicas hold more than a batch."""
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as built
    from ray.serve.schema import ServeDeploySchema

    from paceline.server import ray_serve
    from paceline.server.ray_serve import SERVICERS, Options

    schema = ServeDeploySchema(**yaml.safe_load(YAML.read_text()))
    (application,) = schema.applications
    config = settings.read(Options(**application.args).flags)
    (replicas,) = application.deployments

    assert built(ray_serve.application, application.args) is not None
    assert schema.grpc_options.grpc_servicer_functions == SERVICERS
    assert application.import_path == "paceline.server.ray_serve:application"
    assert replicas.max_ongoing_requests > config.max_batch_size


def test_flags_that_protect_nothing_are_refused() -> None:
    """The proxy's port has no TLS, so a certificate is an error and not a promise."""
    from paceline.server.ray_serve import application

    with pytest.raises(SetupError, match="--tls-cert"):
        application({"flags": ["--tls-cert", "cert.pem", "--tls-key", "key.pem"]})
