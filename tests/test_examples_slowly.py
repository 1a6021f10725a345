"""The examples do what they say, as programs of their own, against a real server without a model."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from background_server import BackgroundServer
from mock_serving import generation
from paceline.server.config import ServeConfig
from paceline.server.mock_loader import load_mock
from paceline.v1 import generation_pb2 as pb

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
WAIT_S = 900.0
TOO_LONG = "b" * 5000  # more than the mock's context
ENDLESS = 4000  # tokens: at the mock's pace more than a test would wait for


@pytest.fixture(scope="module")
def server() -> Iterator[BackgroundServer]:
    config = ServeConfig(mock_tokens_per_s=200)
    server = BackgroundServer(load_mock(config), max_batch_size=config.max_batch_size)
    yield server
    server.close()


def run(command: list[str], stdin: str = "", code: int = 0, **variables: str) -> tuple[str, str]:
    """Standard output and error of a program that ends with this code."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | variables,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def example(name: str, server: BackgroundServer, *arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / name), "--target", server.target, *arguments]


def test_streaming_to_the_terminal(server: BackgroundServer) -> None:
    """The answer is on standard output, what it took on standard error."""
    out, err = run(example("stream_to_terminal.py", server, "Hello", "--max-tokens", "5"))

    assert len(out.strip()) == 5  # the mock's tokens are single letters
    assert err.startswith("5 tokens, the first after ")


def test_fan_out_answers_every_line(server: BackgroundServer) -> None:
    """Each prompt has its line; an error is its own line's and ends nothing."""
    prompts = ["one", "two", "three " * 1000, "four"]

    out, _ = run(example("fan_out.py", server, "--at-once", "2"), stdin="\n".join(prompts))

    answers = dict(re.findall(r"^'(\w+).*' → '(.*)'$", out, re.MULTILINE))
    assert answers.keys() == {"one", "two", "three", "four"}
    assert answers["three"].startswith("(INVALID_ARGUMENT: ")
    assert len(answers["four"]) == 24


def test_batch_with_progress(server: BackgroundServer, tmp_path: Path) -> None:
    """Progress goes up to the end; answers are in the file's order, and an error shows in the exit code."""
    file = tmp_path / "prompts.txt"
    file.write_text(f"a\n{TOO_LONG}\nc\n", encoding="utf-8")

    out, err = run(example("batch_with_progress.py", server, str(file)), code=1)

    assert err.splitlines()[1:] == ["", "1/3", "2/3", "3/3"]  # \r ends a line here, too
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["prompt"][0] for row in rows] == ["a", "b", "c"]
    assert [row.get("code") for row in rows] == [None, "INVALID_ARGUMENT", None]


@pytest.fixture(scope="module")
def web(server: BackgroundServer) -> Iterator[int]:
    """The port of the web service in front of the server."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with subprocess.Popen(
        example("fastapi_app.py", server, "--port", "0"),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        found = next(filter(None, (re.search(r"127.0.0.1:(\d+)", line) for line in process.stderr)))
        yield int(found[1])
        process.terminate()
        process.communicate(timeout=WAIT_S)


def send(
    port: int, path: str, tokens: int, prompt: str = "Hello", **headers: str
) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    body = json.dumps({"prompt": prompt, "max_tokens": tokens})
    connection.request("POST", path, body, {"content-type": "application/json", **headers})
    return connection


def post(port: int, path: str, tokens: int, **more: str) -> tuple[int, str]:
    """Status and body of the answer."""
    with contextlib.closing(send(port, path, tokens, **more)) as connection:
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_the_web_service_answers_and_streams(web: int) -> None:
    """One JSON document, or an event for each message with the end in the last."""
    whole = json.loads(post(web, "/complete", 6)[1])
    lines = post(web, "/stream", 6)[1].split("\n\n")

    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert whole == {"text": whole["text"], "finish": "max_tokens"}
    assert "".join(event["text"] for event in events) == whole["text"]
    assert events[-1]["finish"] == "max_tokens"


def test_the_web_service_passes_deadlines_and_errors_on(web: int) -> None:
    """A deadline that passes is a 504, a bad request a 400 that names the field."""
    late = post(web, "/complete", ENDLESS, **{"x-timeout-s": "0.3"})
    bad = post(web, "/stream", 6, prompt=TOO_LONG)

    assert (late[0], json.loads(late[1])["code"]) == (504, "DEADLINE_EXCEEDED")
    assert bad[0] == 400
    assert "generation.text" in json.loads(bad[1])["error"]


@pytest.mark.parametrize("path", ["/complete", "/stream"])
def test_who_hangs_up_ends_the_work(web: int, server: BackgroundServer, path: str) -> None:
    """A caller that closes its connection has its request stopped in the engine."""
    connection = send(web, path, ENDLESS)
    if path == "/stream":
        assert connection.getresponse().readline().startswith(b"data: ")
    before = until(server, lambda load: load.running == 1)

    connection.close()
    after = until(server, lambda load: load.running == 0)

    assert after.output_tokens - before.output_tokens < ENDLESS / 2


def until(server: BackgroundServer, condition: Any) -> pb.GetLoadResponse:
    """The first load that fulfils the condition."""

    async def ask() -> pb.GetLoadResponse:
        while not condition(load := await server.stub.GetLoad(pb.GetLoadRequest())):
            pass
        found: pb.GetLoadResponse = load
        return found

    return server.run(ask())


def test_a_session_by_reflection(server: BackgroundServer) -> None:
    """Every line of the session is answered, by a tool that knows the service from its reflection alone."""
    if not (shutil.which("grpcurl") or shutil.which("buf")):
        pytest.skip("neither grpcurl nor buf is installed")

    out, _ = run(["sh", str(EXAMPLES / "session.sh")], TARGET=server.target)

    for words in ("GenerateStream", "SERVING", "vocab", "offsets", "FINISH_REASON_MAX_TOKENS"):
        assert words in out
    assert out.count('"completions"') == 3  # one whole answer and two of the batch


@pytest.fixture(scope="module")
def node() -> str:
    """Node, with the packages that the example's lock file names."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("no node here")
    if not (EXAMPLES / "node" / "node_modules" / "@grpc").is_dir():
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        try:
            subprocess.run(command, cwd=EXAMPLES / "node", check=True, timeout=WAIT_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            pytest.skip("no registry reachable to install node's packages from")
    return program


def test_a_node_client_made_from_the_contract(node: str, server: BackgroundServer) -> None:
    """A client in another language streams the same answer as ours, and shows an error's status."""
    command = [node, str(EXAMPLES / "node" / "client.mjs")]
    request = pb.GenerateRequest(generation=generation("Hello", 6))

    out, err = run([*command, "Hello", "6"], TARGET=server.target)
    _, refusal = run([*command, TOO_LONG], code=1, TARGET=server.target)

    async def ask() -> Any:
        return await server.stub.Generate(request)

    assert out == server.run(ask()).result.completions[0].text
    assert err.split() == ["FINISH_REASON_MAX_TOKENS", "6", "tokens"]
    assert refusal.startswith("INVALID_ARGUMENT: ")


def test_every_example_is_told_of() -> None:
    """README.md of the examples names each, and names nothing that is not there."""
    told = set(re.findall(r"\]\(([\w./]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    there = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}

    assert there <= told
    assert [name for name in told if not (EXAMPLES / name).exists()] == []
