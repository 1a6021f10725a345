"""`paceline batch`: a file of requests through the engine, with no server in between."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import Field

from .config import EngineConfig, ModelConfig
from .errors import PacelineError, SetupError
from .job import Job
from .loader import Loaded
from .offline import Entry
from .offline_jobs import prepare, read
from .offline_run import Answer, KeptRunner, OfflineRun, Pass
from .runner_port import Runner
from .settings import Command, read_command
from .torch_loader import load_torch

_INTERRUPTED = 130


class BatchOptions(EngineConfig, ModelConfig):
    """Everything `paceline batch` takes."""

    input: Path = Field(description="file of requests, one JSON object a line")
    output: Path = Field(description="file of results, one JSON object a line, in the same order")
    order: Literal["longest-first", "given"] = Field(
        "longest-first",
        description="who starts first; results keep the file's order either way",
    )
    repeat: int = Field(
        1, ge=1, description="measure so many passes, after one that is not counted if over 1"
    )
    warmup: bool = Field(False, description="run one pass that is not counted first")


BATCH = Command(
    "batch",
    "Run a file of requests through the engine. The last line on standard output is a JSON object that sums up.",
    BatchOptions,
    (("model", ModelConfig), ("batching", EngineConfig), ("measuring", BatchOptions)),
    positional=("input", "output"),
)


Loader = Callable[[BatchOptions], Loaded]


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 if a line failed, 2 where nothing could be run, 130 if interrupted."""
    try:
        options = read_command(BATCH, sys.argv[1:] if argv is None else argv)
        return run(options)
    except (SetupError, FileNotFoundError) as exc:
        sys.stderr.write(f"paceline batch: {exc}\n")
        return 2
    except PacelineError as exc:
        sys.stderr.write(f"paceline batch: {exc}\n")
        return 1


def run(options: BatchOptions, loader: Loader = load_torch) -> int:
    """Runs the file and writes its results; the exit code as of `main`. SetupError where nothing could be run."""
    requests = read(options.input)
    with _replaced(options.output) as output:
        started = time.perf_counter()
        ready = _load(loader, options)
        kept = KeptRunner(ready.runner)
        load_s = time.perf_counter() - started
        prepared = [prepare(entry, ready.tokenizer, ready.runner.info) for entry in requests]
        passes = _run_passes(options, kept, ready, prepared)
        results = list(_results(requests, prepared, passes[-1]))
        output.writelines(json.dumps(result, ensure_ascii=False) + "\n" for result in results)
    failed = sum("error" in result for result in results)
    summary = _summary(results, passes, options, ready) | {"failed": failed, "load_s": load_s}
    sys.stdout.write(json.dumps(summary) + "\n")
    sys.stdout.flush()
    ready.runner.close()
    if failed:
        sys.stderr.write(f"paceline batch: {failed} of {len(results)} requests failed\n")
    return _INTERRUPTED if passes[-1].interrupted else int(failed > 0)


def _load(loader: Loader, options: BatchOptions) -> Loaded:
    """Loads on a thread that ends, as only the engine's may keep OpenMP workers (see `runner_port.Runner`)."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(loader, options).result()


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """A file that takes the place of `path` when all is written, and leaves it alone if that never happens."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as exc:
        raise SetupError(f"cannot write {str(path)!r}: {exc.strerror}") from exc
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # temporary files are private; results are as any other file
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _run_passes(
    options: BatchOptions, runner: Runner, ready: Loaded, prepared: list[Job | str]
) -> list[Pass]:
    """The passes that count. An interrupted one is the last, whether it was to count or not."""
    jobs = [job for job in prepared if isinstance(job, Job)]
    longest_first = options.order == "longest-first"
    unmeasured = int(options.warmup or options.repeat > 1)
    guided = any(job.request.constraint is not None for job in jobs)
    guides = ready.guides() if guided else None  # ready before anything is measured
    passes = []
    with _sigterm_as_interrupt():
        for number in range(unmeasured + options.repeat):
            done = OfflineRun(runner, options, ready.tokenizer, guides).run(jobs, longest_first)
            if done.interrupted:
                return [done]
            if number >= unmeasured:
                passes.append(done)
            gc.collect()  # between passes rather than in one
    return passes


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread: then signals are not ours
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _results(
    requests: list[Entry], prepared: list[Job | str], done: Pass
) -> Iterator[dict[str, Any]]:
    answers = iter(done.answers)
    for entry, job in zip(requests, prepared, strict=True):
        yield _result(entry, job, next(answers)) if isinstance(job, Job) else entry.failure(job)


def _result(entry: Entry, job: Job, answer: Answer) -> dict[str, Any]:
    if answer.reason is None:
        return entry.failure(answer.error or "no answer")
    return {
        "id": entry.id,
        "text": answer.text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.reason.value,
        "prompt_tokens": len(job.request.prompt_ids),
        "completion_tokens": len(answer.token_ids),
    }


def _summary(
    results: list[dict[str, Any]], passes: list[Pass], options: BatchOptions, ready: Loaded
) -> dict[str, Any]:
    """Counts are of the last pass; `wall_s` is the median over `wall_s_runs`."""
    load, info = passes[-1].load, ready.runner.info
    walls = [done.wall_s for done in passes]
    wall_s = statistics.median(walls)
    output_tokens = sum(result.get("completion_tokens", 0) for result in results)
    return {
        "requests": len(results),
        "prompt_tokens": sum(result.get("prompt_tokens", 0) for result in results),
        "output_tokens": output_tokens,
        "wall_s": wall_s,
        "wall_s_runs": walls,
        "output_tokens_per_s": output_tokens / wall_s if wall_s else 0.0,
        "padding_waste": 1 - load.real_tokens / load.padded_tokens if load.padded_tokens else 0.0,
        "steps": load.steps,
        "mean_rows": load.row_steps / load.steps if load.steps else 0.0,
        "cached_tokens": load.cached_tokens,
        "preemptions": load.preemptions,
        "mode": options.mode.value,
        "rows": options.max_batch_size,
        "order": options.order,
        "model": info.name,
        "dtype": info.dtype,
        "device": info.device,
        "threads": ready.num_threads,
        "peak_rss_mib": _peak_rss_mib(),
        "interrupted": passes[-1].interrupted,
    }


def _peak_rss_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere
