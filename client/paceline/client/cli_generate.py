"""`paceline generate`: continues a prompt in the shell, as a stream or at once, as text or as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from paceline.client._connection import DEFAULT_TARGET, DEFAULT_TIMEOUT_S
from paceline.client._sync import Client
from paceline.client.errors import InvalidRequest, PacelineError, Unavailable
from paceline.client.options import GenerationOptions, Prompt

FAILED = 1
BAD_USAGE = 2
INTERRUPTED = 130

_METAVARS: dict[object, str] = {int: "N", float: "X", str: "TEXT"}
# Options that go into the request under their own name, with their type and what they mean.
_SAMPLING: dict[str, tuple[Callable[[str], Any], str]] = {
    "max_tokens": (int, "tokens to generate at most"),
    "min_tokens": (int, "do not end before so many tokens"),
    "temperature": (float, "0 is greedy; unset: 1"),
    "top_k": (int, "keep the k likeliest tokens"),
    "top_p": (float, "keep the likeliest tokens with at least this probability"),
    "min_p": (float, "drop tokens less likely than this share of the likeliest"),
    "repetition_penalty": (float, "over 1 discourages tokens seen before"),
    "presence_penalty": (float, "subtracted for tokens already generated"),
    "frequency_penalty": (float, "the same, once per occurrence"),
    "seed": (int, "the same seed gives the same text"),
    "n": (int, "completions of the prompt"),
    "logprobs": (int, "log-probabilities of so many alternatives (with --json)"),
    "prompt_logprobs": (int, "the same for the prompt's tokens"),
    "regex": (str, "the answer matches this as a whole"),
    "priority": (int, "smaller is served sooner"),
    "time_limit_ms": (int, "end with what there is after so many milliseconds"),
    "request_id": (str, "name in the server's log"),
}


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        with _client(arguments) as client:
            prompt, options = _prompt(arguments), _options(arguments)
            if arguments.stream:
                _stream(client, prompt, options, arguments.json)
            else:
                _whole(client, prompt, options, arguments.json)
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; without this the interpreter complains while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (InvalidRequest, ValueError, OSError) as error:
        return _complain(str(error), BAD_USAGE)
    except Unavailable as error:
        cause = str(error).rpartition(": ")[2]
        return _complain(
            f"no answer from {arguments.target} ({cause}); start a server with: paceline serve",
            FAILED,
        )
    except PacelineError as error:
        return _complain(f"{error.code}: {error}", FAILED)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage text before it."""
        self.exit(BAD_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="paceline generate", description="Continues a prompt with a running server."
    )
    parser.add_argument("prompt", help="the text to continue; - reads it from standard input")
    parser.add_argument("--stream", action="store_true", help="write text as it is made")
    parser.add_argument("--json", action="store_true", help="write JSON lines instead of text")
    parser.add_argument("--chat", action="store_true", help="the prompt is a user's message")
    parser.add_argument("--system", metavar="TEXT", help="system message before it; implies --chat")
    sampling = parser.add_argument_group("generation")
    for name, (kind, meaning) in _SAMPLING.items():
        flag = f"--{name.replace('_', '-')}"
        sampling.add_argument(flag, type=kind, metavar=_METAVARS[kind], help=meaning)
    sampling.add_argument(
        "--stop", action="append", metavar="TEXT", help="end where this appears; repeatable"
    )
    sampling.add_argument(
        "--ignore-eos", action="store_true", default=None, help="do not end early"
    )
    sampling.add_argument(
        "--choice",
        action="append",
        metavar="TEXT",
        help="the answer is this or another; repeatable",
    )
    sampling.add_argument(
        "--json-schema", type=_text, metavar="FILE", help="the answer is JSON of this schema"
    )
    sampling.add_argument("--echo", action="store_true", default=None, help="begin with the prompt")
    _add_connection(parser.add_argument_group("connection"))
    return parser


def _add_connection(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--target",
        default=os.environ.get("PACELINE_TARGET", DEFAULT_TARGET),
        metavar="HOST:PORT",
        help=f"server; else $PACELINE_TARGET, else {DEFAULT_TARGET}",
    )
    group.add_argument(
        "--timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help=f"deadline, 0 for none (default {DEFAULT_TIMEOUT_S:g})",
    )
    group.add_argument(
        "--token",
        default=os.environ.get("PACELINE_TOKEN"),
        help="bearer token; else $PACELINE_TOKEN, which others on this machine cannot see",
    )
    group.add_argument("--token-file", metavar="FILE", help="file with the bearer token")
    group.add_argument("--tls", action="store_true", help="encrypt")
    group.add_argument("--ca", metavar="PEM", help="authorities to trust; implies --tls")
    group.add_argument("--cert", metavar="PEM", help="this client's certificate; implies --tls")
    group.add_argument("--key", metavar="PEM", help="its private key")
    group.add_argument(
        "--insecure", action="store_true", help="send the token to other machines without TLS, too"
    )


def _client(arguments: argparse.Namespace) -> Client:
    return Client(
        arguments.target,
        timeout_s=arguments.timeout or None,
        token=_token(arguments),
        tls=arguments.tls,
        ca=arguments.ca,
        certificate=arguments.cert,
        key=arguments.key,
        insecure=arguments.insecure,
    )


def _token(arguments: argparse.Namespace) -> str | None:
    if arguments.token_file is None:
        token: str | None = arguments.token
        return token
    return Path(arguments.token_file).read_text(encoding="utf-8").strip()


def _prompt(arguments: argparse.Namespace) -> Prompt:
    text: str = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    if not arguments.chat and arguments.system is None:
        return text
    system = [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
    return [*system, {"role": "user", "content": text}]


def _options(arguments: argparse.Namespace) -> GenerationOptions:
    names = (*_SAMPLING, "stop", "ignore_eos", "echo", "choice", "json_schema")
    values: Any = {name: getattr(arguments, name) for name in names}
    options: GenerationOptions = values
    if sum(values[name] is not None for name in ("choice", "regex", "json_schema")) > 1:
        raise ValueError("only one of --choice, --regex and --json-schema can hold")
    if arguments.stream and not arguments.json and (arguments.n or 1) > 1:
        raise ValueError("--stream writes one text; with --n over 1 add --json")
    return options


def _stream(client: Client, prompt: Prompt, options: GenerationOptions, as_json: bool) -> None:
    with client.stream(prompt, **options) as stream:
        for chunk in stream:
            _write(_json(chunk) if as_json else chunk.text)
        if as_json:
            _write(
                _json(
                    {
                        "request_id": stream.request_id,
                        "model": stream.model,
                        "seed": stream.seed,
                        "usage": stream.usage,
                        "timings": stream.timings,
                        "prompt_logprobs": stream.prompt_logprobs,
                    }
                )
            )
        else:
            _write("\n")


def _whole(client: Client, prompt: Prompt, options: GenerationOptions, as_json: bool) -> None:
    generation = client.generate(prompt, **options)
    if as_json:
        _write(_json(generation))
        return
    for completion in generation.completions:
        if len(generation.completions) > 1:
            _write(f"--- {completion.index}\n")
        _write(completion.text + "\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """Values of the client as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value.value if isinstance(value, enum.Enum) else value


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {path!r}: {error}") from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise argparse.ArgumentTypeError(f"want seconds, 0 or more, got {text!r}")
    return seconds


def _complain(line: str, code: int) -> int:
    sys.stderr.write(f"paceline generate: {line}\n")
    return code
