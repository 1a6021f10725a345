"""The console command, as a shell would run it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from certificates import Authority
from paceline.client.cli import SUBCOMMANDS
from paceline.v1 import generation_pb2 as pb
from scripted_server import WAIT_S, ScriptedServer, answer, bad_request, delta, ending, fail, header

PACELINE = [sys.executable, "-W", "error", "-m", "paceline.client.cli"]
NO_SERVER = "127.0.0.1:1"


def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command's exit code and what it wrote."""
    return subprocess.run(
        [*PACELINE, *arguments],
        input=stdin,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def tokens(*texts: str) -> Iterator[pb.GenerateStreamResponse]:
    """A whole stream."""
    yield header()
    for offset, text in enumerate(texts):
        yield delta(text, offset)
    yield ending(len(texts))


class TestTop:
    def test_help_lists_the_subcommands(self) -> None:
        """Help names every subcommand and says what it does."""
        done = run("--help")

        assert done.returncode == 0
        for name, subcommand in SUBCOMMANDS.items():
            assert f"  {name:<9} {subcommand.summary}\n" in done.stdout

    def test_version(self) -> None:
        """The version is the installed distribution's."""
        from importlib.metadata import version

        assert run("--version").stdout == f"paceline {version('paceline')}\n"

    @pytest.mark.parametrize("arguments", [[], ["fly"], ["--fly"]])
    def test_bad_usage_is_exit_code_2(self, arguments: list[str]) -> None:
        """No or an unknown subcommand is bad usage, without a traceback."""
        done = run(*arguments)

        assert done.returncode == 2
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        ("name", "module", "extra"),
        [
            ("serve", "pydantic", "server"),
            ("batch", "pydantic", "server"),
            ("baseline", "transformers", "server"),
            ("bench", "rich", "all"),
        ],
    )
    def test_a_missing_extra_is_one_line(self, name: str, module: str, extra: str) -> None:
        """Without the extra's packages the command says how to install them."""
        code = (
            f"import sys; sys.modules[{module!r}] = None\n"
            f"from paceline.client.cli import main; sys.exit(main([{name!r}]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )

        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert f"pip install 'paceline[{extra}]'" in done.stderr


class TestGenerate:
    def test_writes_the_text(self, server: ScriptedServer) -> None:
        """Prompt and flags reach the server; the text comes out."""
        server.handlers["Generate"] = lambda request, context: answer("there")
        flags = ["--max-tokens", "5", "--temperature", "0", "--stop", "A", "--stop", "B"]

        done = run("generate", "Say", "--target", server.target, "--ignore-eos", *flags)

        assert (done.returncode, done.stdout, done.stderr) == (0, "there\n", "")
        assert server.calls[0].request.generation == pb.Generation(
            text="Say",
            sampling=pb.Sampling(temperature=0),
            stopping=pb.Stopping(max_tokens=5, stop=["A", "B"], ignore_eos=True),
        )

    @pytest.mark.parametrize(
        ("flags", "constraint"),
        [
            (["--regex", "a+"], pb.Constraint(regex="a+")),
            (
                ["--choice", "a", "--choice", "b"],
                pb.Constraint(choice=pb.Choice(options=["a", "b"])),
            ),
            (["--json-schema", "SCHEMA"], pb.Constraint(json_schema='{"type": "null"}')),
        ],
    )
    def test_constraints_and_scores(
        self, server: ScriptedServer, tmp_path: Path, flags: list[str], constraint: pb.Constraint
    ) -> None:
        """The flags of guided decoding; a schema is read from its file. Scores of the prompt are in the JSON."""
        (tmp_path / "schema.json").write_text('{"type": "null"}')
        flags = [flag.replace("SCHEMA", str(tmp_path / "schema.json")) for flag in flags]
        scored = pb.TokenLogprobs(chosen=pb.TokenLogprob(token_id=3, token="x", logprob=-0.5))
        whole = answer("there")
        whole.result.prompt_logprobs.extend([pb.TokenLogprobs(), scored])
        server.handlers["Generate"] = lambda request, context: whole

        more = ["--prompt-logprobs", "0", "--json", "--target", server.target]
        done = run("generate", "Say", *flags, *more)

        assert server.calls[0].request.generation == pb.Generation(
            text="Say", constraint=constraint, response=pb.ResponseOptions(prompt_logprobs=0)
        )
        first, second = json.loads(done.stdout)["prompt_logprobs"]
        assert first is None
        assert second["chosen"] == {"token_id": 3, "token": "x", "logprob": -0.5}

    def test_target_and_token_from_the_environment(self, server: ScriptedServer) -> None:
        """PACELINE_TARGET and PACELINE_TOKEN stand in for the flags."""
        server.handlers["Generate"] = lambda request, context: answer("there")

        done = run("generate", "x", PACELINE_TARGET=server.target, PACELINE_TOKEN="t")

        assert done.stdout == "there\n"
        assert server.calls[0].metadata["authorization"] == "Bearer t"

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
    def test_tls_and_token_from_files(
        self, make_server: Callable[..., ScriptedServer], tmp_path: Path
    ) -> None:
        """`--ca` encrypts, `--token-file` keeps the token off the command line; a stranger's server gets no token."""
        authority = Authority(tmp_path)
        pem, key = authority.sign("server")
        pair = (key.read_bytes(), pem.read_bytes())
        server = make_server(grpc.ssl_server_credentials([pair]))
        server.handlers["Generate"] = lambda request, context: answer("there")
        token = tmp_path / "token"
        token.write_text("s3cret\n")
        flags = ["--target", server.target, "--token-file", str(token)]

        done = run("generate", "x", *flags, "--ca", str(authority.pem))
        stranger = run("generate", "x", *flags, "--tls")

        assert (done.returncode, done.stdout) == (0, "there\n")
        assert [call.metadata["authorization"] for call in server.calls] == ["Bearer s3cret"]
        assert stranger.returncode == 1 and "CERTIFICATE_VERIFY_FAILED" in stranger.stderr

    def test_a_token_is_not_sent_in_plaintext(self) -> None:
        """One line says what to do; exit code 2."""
        done = run("generate", "x", "--target", "192.0.2.1:1", PACELINE_TOKEN="s3cret")

        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "would travel unencrypted" in done.stderr and "s3cret" not in done.stderr

    def test_prompt_from_standard_input_as_a_chat(self, server: ScriptedServer) -> None:
        """`-` reads the prompt, `--system` makes a conversation of it."""
        server.handlers["Generate"] = lambda request, context: answer()

        run("generate", "-", "--system", "Be brief.", "--target", server.target, stdin="Hi")

        messages = server.calls[0].request.generation.chat.messages
        assert [(each.role, each.content) for each in messages] == [
            ("system", "Be brief."),
            ("user", "Hi"),
        ]

    def test_json_holds_the_whole_answer(self, server: ScriptedServer) -> None:
        """One line of JSON with completions, usage and timings."""
        server.handlers["Generate"] = lambda request, context: answer("there")

        done = run("generate", "x", "--json", "--target", server.target)

        result = json.loads(done.stdout)
        assert result["completions"][0]["text"] == "there"
        assert result["completions"][0]["finish"]["reason"] == "eos"
        assert result["usage"]["prompt_tokens"] == 3

    def test_text_is_written_as_it_arrives(self, server: ScriptedServer) -> None:
        """The first token is on standard output while the server still waits to make the second."""
        go_on = threading.Event()

        def handler(request: object, context: object) -> Iterator[pb.GenerateStreamResponse]:
            for message in tokens("one", " two"):
                yield message
                if message.text == "one":
                    go_on.wait(WAIT_S)

        server.handlers["GenerateStream"] = handler
        command = [*PACELINE, "generate", "x", "--stream", "--target", server.target]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.read(3) == "one"
            go_on.set()

            assert process.stdout.read() == " two\n"
        assert process.returncode == 0

    def test_streamed_json_ends_with_a_summary(self, server: ScriptedServer) -> None:
        """Each chunk is a line; the last line has usage, timings and seed."""
        server.handlers["GenerateStream"] = lambda request, context: tokens("a", "b")

        done = run("generate", "x", "--stream", "--json", "--target", server.target)

        *chunks, summary = [json.loads(line) for line in done.stdout.splitlines()]
        assert "".join(chunk["text"] for chunk in chunks) == "ab"
        assert summary["usage"]["completion_tokens"] == 2
        assert summary["seed"] == 7

    def test_interrupt_cancels_and_leaves_no_traceback(self, server: ScriptedServer) -> None:
        """Ctrl-C stops the server's work and ends the command with 130."""

        def handler(request: object, context: object) -> Iterator[pb.GenerateStreamResponse]:
            yield header()
            yield delta("one")
            server.left.wait(WAIT_S)

        server.handlers["GenerateStream"] = handler
        command = [*PACELINE, "generate", "x", "--stream", "--target", server.target]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.read(3) == "one"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=WAIT_S)

        assert process.returncode == 130
        assert "Traceback" not in errors
        assert server.left.wait(WAIT_S)

    def test_a_reader_that_leaves_is_no_traceback(self, server: ScriptedServer) -> None:
        """`paceline generate … | head -c 1` ends quietly."""
        server.handlers["GenerateStream"] = lambda request, context: tokens(*["word "] * 50_000)
        command = [*PACELINE, "generate", "x", "--stream", "--target", server.target]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            process.stdout.close()

            assert process.stderr.read() == b""
        assert process.returncode == 1

    def test_no_server_says_how_to_start_one(self) -> None:
        """A refused connection is one line that names the address and the cure."""
        done = run("generate", "x", "--target", NO_SERVER)

        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert NO_SERVER in done.stderr
        assert "paceline serve" in done.stderr

    def test_a_refused_request_names_the_field(self, server: ScriptedServer) -> None:
        """The server's word on a bad field is one line, exit code 2."""
        server.handlers["Generate"] = lambda request, context: fail(
            context,
            grpc.StatusCode.INVALID_ARGUMENT,
            "generation.sampling.top_p: is 7",
            bad_request("generation.sampling.top_p", "is 7"),
        )

        done = run("generate", "x", "--top-p", "7", "--target", server.target)

        assert done.returncode == 2
        assert done.stderr == "paceline generate: generation.sampling.top_p: is 7\n"

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["x", "--top-k", "many"],
            ["x", "--timeout", "soon"],
            ["x", "--timeout", "-1"],
            ["x", "--top-k", "-1"],
            ["x", "--fly"],
            ["x", "--stream", "--n", "2"],
            ["x", "--ca", "/no/such/file.pem"],
            ["x", "--json-schema", "/no/such/file.json"],
            ["x", "--regex", "a", "--choice", "b"],
        ],
    )
    def test_bad_usage_is_one_line_and_exit_code_2(self, arguments: list[str]) -> None:
        """A wrong flag or value never reaches a server."""
        done = run("generate", "--target", NO_SERVER, *arguments)

        assert done.returncode == 2
        assert done.stderr.startswith("paceline generate: ")
        assert done.stderr.count("\n") == 1
