"""`paceline serve` as an engine and front ends in processes of their own."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from certificates import Authority
from mock_serving import generation
from paceline.server.bearer import digest_of
from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc
from playing import play
from process_serving import (
    NOT_SERVING,
    PROGRAM,
    SERVING,
    WAIT_S,
    Server,
    starting,
    status_of,
    text_of,
    until,
)

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="ports are shared on Linux alone"),
]


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """A server with two front ends that no test harms."""
    server = Server("--frontends", "2")
    yield server
    server.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Starts servers that do not outlive the test."""
    yield from starting("--frontends", "2")


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A name of the interpreter: without it, a server that runs under it can start no process."""
    name = tmp_path / "python"
    name.symlink_to(sys.executable)
    return name


class TestServing:
    def test_every_front_end_answers_alike(self, shared: Server) -> None:
        """The same request gives the same completion through either, whole, streamed and several at once."""
        one, two = shared.connect_each()
        assert one.pid != two.pid
        first = one.generate(12)
        assert first.usage.completion_tokens == 12
        assert two.generate(12).completions[0].text == first.completions[0].text
        request = pb.GenerateStreamRequest(generation=generation(max_tokens=12))
        text, last = text_of(two.stub.GenerateStream(request, timeout=WAIT_S))
        assert text == first.completions[0].text
        assert last.summary.usage.completion_tokens == 12
        several = one.generate(
            6, sampling=pb.Sampling(n=3), response=pb.ResponseOptions(logprobs=2)
        )
        assert [c.num_tokens for c in several.completions] == [6, 6, 6]
        assert [len(entry.top) for entry in several.completions[2].logprobs] == [2] * 6

    def test_the_page_sends_prompts_through_a_front_end(self, shared: Server) -> None:
        """The playground's answer is the service's, and ends among what the page lists."""
        body = {"generation": {"text": "one two", "stopping": {"max_tokens": 3}}}
        messages = play(shared.metrics_port, body)
        assert messages[-1]["summary"]["usage"]["completion_tokens"] == 3
        (refused,) = play(shared.metrics_port, {"generation": {"text": ""}})
        assert refused["error"]["status"] == "INVALID_ARGUMENT"
        short_id = messages[0]["header"]["request_id"][:8]
        until(lambda: short_id in shared.get("/status.json"))

    def test_stop_strings_end_the_request_in_the_engine(self, shared: Server) -> None:
        """A match in a front end's text cancels what the engine still computes."""
        (one, _) = shared.connect_each()
        whole = one.generate(40).completions[0].text
        stop = next(c for c in whole[10:] if c.isalnum())
        stopping = pb.Stopping(max_tokens=7000, stop=[stop])
        request = pb.GenerateRequest(generation=pb.Generation(text="one two", stopping=stopping))
        result = one.stub.Generate(request, timeout=WAIT_S).result
        assert result.completions[0].finish.reason == pb.FINISH_REASON_STOP_SEQUENCE
        assert result.completions[0].text == whole[: whole.index(stop)]
        one.until_idle()

    def test_questions_about_the_server(self, shared: Server) -> None:
        """Health, reflection, model, server and load are the same at every front end."""
        answers = []
        for frontend in shared.connect_each():
            assert frontend.check() == SERVING
            stub = reflection_pb2_grpc.ServerReflectionStub(frontend.channel)
            question = reflection_pb2.ServerReflectionRequest(list_services="")
            (listed,) = stub.ServerReflectionInfo(iter([question]), timeout=WAIT_S)
            names = {service.name for service in listed.list_services_response.service}
            model = frontend.stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=WAIT_S)
            info = frontend.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=WAIT_S)
            info.ClearField("uptime_s")
            answers.append((names, model, info, frontend.load().pages_total))
        assert answers[0] == answers[1]
        assert "paceline.v1.GenerationService" in answers[0][0]
        assert answers[0][3] == 511

    def test_ids_are_unique_across_front_ends(self, shared: Server) -> None:
        """An id in flight at one front end is refused at the other, and free again when it has ended."""
        one, two = shared.connect_each()
        call = one.stream(7000, request_id="mine")
        error = status_of(lambda: two.generate(request_id="mine"))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "request_id" in error.details()
        call.cancel()
        two.until_idle()
        assert two.generate(request_id="mine").request_id == "mine"

    @pytest.mark.parametrize("everything", [False, True])
    def test_abort_reaches_other_front_ends(self, shared: Server, everything: bool) -> None:
        """A request is aborted by its id, or with all, at another front end than its own."""
        one, two = shared.connect_each()
        call = one.stream(7000, request_id="far")
        request = pb.AbortRequest(all=everything, request_ids=[] if everything else ["far", "?"])
        assert two.stub.Abort(request, timeout=WAIT_S).aborted == 1
        _, last = text_of(call)
        assert last.finish.reason == pb.FINISH_REASON_ABORTED

    def test_a_client_that_leaves_frees_its_pages(self, shared: Server) -> None:
        """Cancelling the call ends the request in the engine."""
        one, two = shared.connect_each()
        call = one.stream(7000)
        assert two.load().running == 1
        call.cancel()
        two.until_idle()

    def test_metrics_add_up_and_a_full_queue_refuses(self, start: Callable[..., Server]) -> None:
        """One page counts what all front ends did; the engine's refusal comes with the time to come again."""
        server = start("--max-queue-requests", "1", "--max-batch-size", "1")
        one, two = server.connect_each()
        for times, frontend in enumerate((one, two), start=1):
            for _ in range(times):
                frontend.generate(5)
            status_of(functools.partial(frontend.generate, 0))
        until(lambda: server.metric('paceline_requests_total{status="INVALID_ARGUMENT"}') == 2)
        until(lambda: server.metric('paceline_requests_total{status="OK"}') == 3)
        assert server.metric("paceline_request_generation_tokens_sum") == 15
        assert server.metric("paceline_time_to_first_token_seconds_count") == 3
        until(lambda: server.metric("paceline_generation_tokens_total") == 15)
        assert server.metric("paceline_engine_healthy") == 1
        status = json.loads(server.get("/status.json"))
        assert (status["health"], status["model"]["name"]) == ("serving", "mock")
        assert status["load"]["output_tokens"] == 15

        running = one.stream(7000)
        waiting = one.stub.Generate.future(pb.GenerateRequest(generation=generation()))
        until(lambda: two.load().waiting == 1)
        error = status_of(two.generate)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        (detail,) = rpc_status.from_call(error).details
        retry = error_details_pb2.RetryInfo()
        assert detail.Unpack(retry)
        assert 0.05 <= retry.retry_delay.ToTimedelta().total_seconds() <= 60
        running.cancel()
        assert waiting.result(WAIT_S).result.usage.completion_tokens == 8

    def test_no_torch_outside_the_engine(self, shared: Server) -> None:
        """Neither a front end nor the supervisor has torch's libraries in its memory; a front end has gRPC's."""
        shared.connect_each()[0].generate(text="tokenised")
        supervisor = psutil.Process(shared.process.pid)
        frontends = shared.children("frontend")
        for process in (supervisor, *frontends):
            assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
        for process in frontends:
            assert "cygrpc" in Path(f"/proc/{process.pid}/maps").read_text()

    def test_a_second_server_on_the_port_fails(self, shared: Server) -> None:
        """Sharing is for the processes of one server: another one gets the usual line."""
        command = [sys.executable, str(PROGRAM), "--port", str(shared.port), "--frontends", "1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert done.returncode != 0
        assert f"127.0.0.1:{shared.port}: address already in use" in done.stderr


class TestDeaths:
    def test_a_dead_front_end_is_replaced(self, start: Callable[..., Server]) -> None:
        """Its requests are cancelled, the others go on, and another one takes its place."""
        server = start()
        one, two = server.connect_each()
        lost, kept = one.stream(7000), two.stream(1000)
        os.kill(one.pid, signal.SIGKILL)
        assert status_of(lambda: list(lost)).code() == grpc.StatusCode.UNAVAILABLE
        until(lambda: two.load().running == 1)
        _, last = text_of(kept)
        assert last.summary.usage.completion_tokens == 1000
        until(lambda: len(server.children("frontend")) == 2)
        pids = {child.pid for child in server.children("frontend")}
        assert one.pid not in pids
        for frontend in server.connect_each():
            frontend.until_serving()
            assert frontend.generate().usage.completion_tokens == 8
        two.until_idle()
        server.process.send_signal(signal.SIGTERM)
        assert server.finish()[0] == 0

    def test_a_restart_that_fails_is_tried_again(
        self, start: Callable[..., Server], python: Path
    ) -> None:
        """Where no process can be started for a while, a front end takes the place as soon as one can."""
        server = start(python=str(python))
        one, _ = server.connect_each()
        python.unlink()
        os.kill(one.pid, signal.SIGKILL)
        server.until_logged("a front end could not be started")
        python.symlink_to(sys.executable)
        until(lambda: len(server.children("frontend")) == 2)
        for frontend in server.connect_each():
            frontend.until_serving()
            assert frontend.generate().usage.completion_tokens == 8

    def test_no_orphan_survives_the_supervisor(self, start: Callable[..., Server]) -> None:
        """Killed outright, it takes its children along."""
        server = start()
        children = psutil.Process(server.process.pid).children()
        assert len(children) == 3
        server.process.kill()
        _, alive = psutil.wait_procs(children, timeout=WAIT_S)
        assert alive == []


class TestLeaving:
    def test_a_drain_under_load_loses_nothing(self, start: Callable[..., Server]) -> None:
        """SIGTERM: every stream that runs gets all of its tokens; new requests are refused; exit code 0."""
        server = start()
        frontends = server.connect_each()
        calls = [frontends[i % 2].stream(400) for i in range(16)]
        results: list[Any] = []
        threads = [
            threading.Thread(target=lambda c: results.append(text_of(c)[1]), args=(call,))
            for call in calls
        ]
        for thread in threads:
            thread.start()
        server.process.send_signal(signal.SIGTERM)
        error = None
        while error is None:
            try:
                frontends[0].generate(1)
            except grpc.RpcError as caught:
                error = caught
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        for thread in threads:
            thread.join(WAIT_S)
        assert [last.summary.usage.completion_tokens for last in results] == [400] * 16
        code, errors = server.finish()
        assert code == 0, errors
        assert "Traceback" not in errors

    def test_a_dead_front_end_does_not_cut_a_drain_short(
        self, start: Callable[..., Server], python: Path
    ) -> None:
        """While one waits for its restart, the others' streams get all of their tokens; exit code 0."""
        server = start(python=str(python))
        one, two = server.connect_each()
        python.unlink()  # so that it waits until the end
        os.kill(one.pid, signal.SIGKILL)
        server.until_logged("a front end could not be started")
        call = two.stream(400)
        server.process.send_signal(signal.SIGTERM)
        _, last = text_of(call)
        assert last.summary.usage.completion_tokens == 400
        code, errors = server.finish()
        assert code == 0, errors
        assert "Traceback" not in errors

    def test_a_hung_front_end_does_not_hold_up_the_end(self, start: Callable[..., Server]) -> None:
        """It is killed when the drain is over; the exit code says that its readers may lack something."""
        server = start("--drain-timeout-s", "0.1", end_s=2.0)
        one, two = server.connect_each()
        call = two.stream(100)
        os.kill(one.pid, signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        _, last = text_of(call)
        assert last.summary.usage.completion_tokens == 100
        code, errors = server.finish()
        assert code == 1, errors
        assert f"process {one.pid} does not answer" in errors
        assert "Traceback" not in errors
        assert not psutil.pid_exists(one.pid)

    def test_a_second_signal_cuts_short(self, start: Callable[..., Server]) -> None:
        """What runs ends with ABORTED and its tokens so far; the exit code says so."""
        server = start("--drain-timeout-s", "600")
        one, two = server.connect_each()
        call = one.stream(7000)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: two.check() == NOT_SERVING)
        server.process.send_signal(signal.SIGTERM)
        _, last = text_of(call)
        assert last.finish.reason == pb.FINISH_REASON_ABORTED
        assert 0 < last.summary.usage.completion_tokens < 7000
        code, errors = server.finish()
        assert code == 1
        assert "Traceback" not in errors


def test_a_model_that_cannot_be_loaded_is_one_line() -> None:
    """The engine's reason reaches the operator through the supervisor; exit code 2."""
    code = "import sys; from paceline.server.cli import main_serve; sys.exit(main_serve())"
    flags = ["--port", "0", "--metrics-port", "none", "--frontends", "1", "--model", "/nowhere/"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "paceline serve: no such model folder or file: '/nowhere/'\n"


def test_the_embedded_model_through_a_front_end() -> None:
    """The real model answers the same prompt with the same text, twice, through a front end."""
    code = "import sys; from paceline.server.cli import main_serve; sys.exit(main_serve())"
    flags = ["--port", "0", "--metrics-port", "none", "--frontends", "1", "--num-threads", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        found = re.search(r" on (\S+:\d+) ", server.stdout.readline())
        if found is None:
            _, errors = server.communicate()
            if "cannot fetch the embedded model" in errors:
                pytest.skip(f"no embedded model: {errors.strip()}")
            raise AssertionError(errors)
        with grpc.insecure_channel(found[1]) as channel:
            stub: Any = rpc.GenerationServiceStub(channel)
            message = generation("The capital of France is", 6)
            message.sampling.temperature = 0
            request = pb.GenerateRequest(generation=message)
            texts = {
                stub.Generate(request, timeout=WAIT_S).result.completions[0].text for _ in range(2)
            }
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=WAIT_S)
    assert server.returncode == 0, errors
    assert len(texts) == 1
    assert "Paris" in texts.pop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_front_ends_take_new_certificates_and_tokens(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    """TLS and tokens hold in a front end's process, too, and new files are taken without a restart."""
    authority, newer = Authority(tmp_path), Authority(tmp_path, "newer")
    pem, key = authority.sign("server")
    tokens = tmp_path / "tokens"
    tokens.write_text(f"alice:{digest_of('first').hex()}\n")
    tls = ["--tls-cert", str(pem), "--tls-key", str(key)]
    server = start("--frontends", "1", *tls, "--tokens", str(tokens))

    def ends(ca: Path, token: str) -> grpc.StatusCode:
        """How a call on a connection of its own ends."""
        credentials = grpc.ssl_channel_credentials(ca.read_bytes())
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(f"127.0.0.1:{server.port}", credentials, options) as channel:
            stub: Any = rpc.GenerationServiceStub(channel)
            metadata = [("authorization", f"Bearer {token}")]
            try:
                stub.GetLoad(pb.GetLoadRequest(), timeout=WAIT_S, metadata=metadata)
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

    assert "with TLS and tokens" in server.banner
    assert ends(authority.pem, "first") is grpc.StatusCode.OK
    assert ends(authority.pem, "second") is grpc.StatusCode.UNAUTHENTICATED
    new = tmp_path / "new"
    new.write_text(f"alice:{digest_of('second').hex()}\n")
    os.replace(new, tokens)
    for made, used in zip(newer.sign("new"), (pem, key), strict=True):
        os.replace(made, used)
    assert ends(newer.pem, "second") is grpc.StatusCode.OK
    assert ends(newer.pem, "first") is grpc.StatusCode.UNAUTHENTICATED
    assert ends(authority.pem, "second") is grpc.StatusCode.UNAVAILABLE
