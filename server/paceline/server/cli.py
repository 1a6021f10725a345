"""The server's commands: `serve`, `batch` and `baseline`. Heavy imports wait until the flags are known to be good."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from .devices import torchrun_rank
from .errors import SetupError


def main_serve(argv: Sequence[str] | None = None) -> int:
    """`paceline serve`: the exit code; 2 where the operator has to change something."""
    return _guarded("serve", lambda: _serve(sys.argv[1:] if argv is None else argv))


def main_batch(argv: Sequence[str] | None = None) -> int:
    """`paceline batch`: a file of prompts through the engine, without gRPC."""
    from . import batch

    return batch.main(argv)


def main_baseline(argv: Sequence[str] | None = None) -> int:
    """`paceline baseline`: the same file through transformers' own `generate()`."""
    from .runner import baselines

    return baselines.main(argv)


def _serve(argv: Sequence[str]) -> int:
    from . import logs
    from .settings import read

    config = read(argv)
    logs.configure(config.log_level, config.log_format)
    if config.tensor_parallel > 1 and torchrun_rank():
        from .runner.rank import follow_torchrun

        return follow_torchrun(config)
    from .serve import run

    if config.mock:
        from .mock_loader import load_mock

        return run(config, load_mock)
    return run(config)


def _guarded(command: str, run: Callable[[], int]) -> int:
    try:
        return run()
    except SetupError as exc:
        sys.stderr.write(f"paceline {command}: {exc}\n")
        return 2
