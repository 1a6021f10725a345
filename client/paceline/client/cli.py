"""The console command `paceline`. A subcommand's module is imported when it is called, so that help is instant."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import NamedTuple

FAILED = 1
BAD_USAGE = 2
INTERRUPTED = 130


class Subcommand(NamedTuple):
    """Where a subcommand lives and what it needs; its function takes the arguments and returns the exit code."""

    summary: str
    module: str
    function: str
    extra: str | None = None


SUBCOMMANDS = {
    "serve": Subcommand("serve a model over gRPC", "paceline.server.cli", "main_serve", "server"),
    "generate": Subcommand(
        "continue a prompt with a running server", "paceline.client.cli_generate", "main"
    ),
    "health": Subcommand(
        "ask a running server whether it serves", "paceline.server.health_cli", "main", "server"
    ),
    "token": Subcommand(
        "make a bearer token for `serve --tokens`", "paceline.server.token_cli", "main"
    ),
    "batch": Subcommand(
        "run a file of prompts through the engine, without a server",
        "paceline.server.cli",
        "main_batch",
        "server",
    ),
    "baseline": Subcommand(
        "run the same file through transformers' own generate()",
        "paceline.server.cli",
        "main_baseline",
        "server",
    ),
    "bench": Subcommand(
        "measure every batching mode and write a report",
        "paceline.loadgen.bench_cli",
        "main",
        "all",
    ),
    "compare": Subcommand(
        "tell whether one bench run is faster than another",
        "paceline.loadgen.compare_cli",
        "main",
        "loadgen",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Runs the subcommand that `argv` names and returns the exit code: 0, 1 for failure, 2 for bad usage."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return 0 if arguments else BAD_USAGE
    name, rest = arguments[0], arguments[1:]
    if name in ("-V", "--version", "version"):
        from importlib.metadata import version

        sys.stdout.write(f"paceline {version('paceline')}\n")
        return 0
    if name not in SUBCOMMANDS:
        return _complain(f"paceline: no subcommand {name!r}; there are {', '.join(SUBCOMMANDS)}")
    return _run(name, SUBCOMMANDS[name], rest)


def _run(name: str, subcommand: Subcommand, arguments: list[str]) -> int:
    try:
        module = importlib.import_module(subcommand.module)
        function: Callable[[list[str]], int] = getattr(module, subcommand.function)
        return function(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if subcommand.extra is None or missing == "paceline":
            raise
        return _complain(
            f"paceline {name}: the module {missing!r} is missing; "
            f"install it with: pip install 'paceline[{subcommand.extra}]'"
        )
    except KeyboardInterrupt:
        return INTERRUPTED


def _complain(line: str) -> int:
    sys.stderr.write(line + "\n")
    return BAD_USAGE


def _help() -> str:
    lines = "\n".join(f"  {name:<9} {each.summary}" for name, each in SUBCOMMANDS.items())
    return (
        "usage: paceline SUBCOMMAND [options]\n\n"
        "Hugging Face text generation over gRPC, batched.\n\n"
        f"{lines}\n\n"
        "`paceline SUBCOMMAND --help` lists its options; `paceline --version` tells the version.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
