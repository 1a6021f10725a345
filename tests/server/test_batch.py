"""`paceline batch` end to end: on scripted tokens where the model does not matter, on a tiny model where it does."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from paceline.server.batch import BATCH, BatchOptions, main, run
from paceline.server.loader import Loaded
from paceline.server.mock import MockRunner
from paceline.server.runner.dummy import byte_tokenizer
from paceline.server.settings import read_command
from paceline.server.step import Step
from paceline.server.tokenizer import Tokenizer
from tiny_models import VOCAB_SIZE, greedy_reference, save_tiny_model, tiny_config

TOKENIZER = Tokenizer(byte_tokenizer(tiny_config("llama")))


class Files:
    """An input file, where the output goes, and what a run leaves there."""

    def __init__(self, folder: Path) -> None:
        self.input = folder / "in.jsonl"
        self.output = folder / "out.jsonl"

    def write(self, *requests: dict[str, Any] | str) -> None:
        lines = [r if isinstance(r, str) else json.dumps(r) for r in requests]
        self.input.write_text("\n".join(lines) + "\n")

    def run(self, *flags: str, runner: MockRunner | None = None) -> int:
        """A run on scripted tokens."""
        options = read_command(BATCH, [str(self.input), str(self.output), *flags])
        inner = runner or MockRunner(vocab_size=VOCAB_SIZE)
        return run(options, lambda _: Loaded(inner, TOKENIZER, 1))

    @property
    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text().splitlines()]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def summary(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The last line on standard output."""
    value: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return value


def spell(text: str) -> Callable[[Any], int]:
    """A choice of tokens that writes `text`, then goes on with dots."""
    ids = TOKENIZER.encode(text)
    (dot,) = TOKENIZER.encode(".")
    return lambda sequence: ids[sequence.num_output] if sequence.num_output < len(ids) else dot


@pytest.mark.parametrize("mode", ["sequential", "static", "dynamic", "continuous"])
def test_every_mode_matches_generate(
    mode: str, tmp_path: Path, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results stand in the order of the file with the tokens `generate()` makes, and the summary adds up."""
    model = save_tiny_model("llama", tmp_path / "model")
    torch.set_num_threads(1)
    prompts = [[65 + i, 70, 71 + 2 * i, 90][: 1 + i % 4] for i in range(9)]
    lengths = [3 + 5 * (i % 3) for i in range(9)]
    files.write(
        *(
            {"id": f"r{i}", "prompt_ids": prompt, "max_tokens": length}
            | {"ignore_eos": True, "temperature": 0}
            for i, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
        )
    )
    flags = ["--model", str(tmp_path / "model"), "--mode", mode, "--dtype", "float32"]
    flags += ["--device", "cpu", "--max-batch-size", "4", "--max-wait-ms", "1"]
    flags += ["--num-threads", "1", "--kv-cache-mib", "4"]
    assert main([str(files.input), str(files.output), *flags]) == 0
    assert [result["id"] for result in files.results] == [f"r{i}" for i in range(9)]
    for result, prompt, length in zip(files.results, prompts, lengths, strict=True):
        assert result["token_ids"] == greedy_reference(model, prompt, length)
        assert result["text"] == TOKENIZER.decode(result["token_ids"])
        assert result["finish_reason"] == "max_tokens"
        assert (result["prompt_tokens"], result["completion_tokens"]) == (len(prompt), length)
    total = summary(capsys)
    assert total["requests"] == 9
    assert total["prompt_tokens"] == sum(map(len, prompts))
    assert total["output_tokens"] == sum(lengths)
    assert total["output_tokens_per_s"] == pytest.approx(sum(lengths) / total["wall_s"])
    assert (total["mode"], total["rows"], total["dtype"]) == (mode, 4, "float32")
    assert 0 <= total["padding_waste"] < 1
    assert total["steps"] >= max(lengths)
    assert total["peak_rss_mib"] > 50


def test_bad_lines_fail_alone(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    """Each bad line gets a result that names it, the others are run, and the exit code is 1."""
    files.write(
        {"id": "good", "prompt": "ab", "max_tokens": 2},
        "not json",
        {"id": "far", "prompt_ids": [VOCAB_SIZE], "max_tokens": 2},
        {"id": "long", "prompt_ids": [1] * 3000, "max_tokens": 2},
        {"id": "chat", "messages": [{"role": "user", "content": "hi"}]},
        {"id": "hot", "prompt": "ab", "temperature": -1},
        {"id": "last", "prompt": "cd", "max_tokens": 3},
    )
    assert files.run() == 1
    results = files.results
    assert [r["id"] for r in results] == ["good", 2, "far", "long", "chat", "hot", "last"]
    assert [r.get("completion_tokens") for r in results] == [2, None, None, None, None, None, 3]
    problems = [(r["line"], r["error"]) for r in results if "error" in r]
    says = ["not JSON", "out of range", "3000 tokens", "chat template", "temperature"]
    for (line, error), number, part in zip(problems, [2, 3, 4, 5, 6], says, strict=True):
        assert line == number
        assert error.startswith(f"line {number}: ")
        assert part in error
    assert summary(capsys)["failed"] == 5


def test_a_small_queue_is_waited_for(files: Files) -> None:
    """A file may be larger than the queue: nothing is refused, nothing is lost."""
    files.write(*({"id": i, "prompt": "abc", "max_tokens": 1 + i % 4} for i in range(50)))
    assert files.run("--max-queue-requests", "2", "--max-queue-tokens", "6") == 0
    assert [(r["id"], r["completion_tokens"]) for r in files.results] == [
        (i, 1 + i % 4) for i in range(50)
    ]


def test_a_prompt_that_no_queue_takes_fails_alone(files: Files) -> None:
    """It is not waited for for ever."""
    files.write({"prompt": "abcdefgh", "max_tokens": 1}, {"prompt": "ab", "max_tokens": 1})
    assert files.run("--max-queue-tokens", "4") == 1
    assert "cannot be queued" in files.results[0]["error"]
    assert files.results[1]["completion_tokens"] == 1


def test_stop_strings_end_a_text(files: Files) -> None:
    """The text ends before the stop string, and the tokens with the one that completed it."""
    files.write({"prompt": "x", "max_tokens": 40, "stop": ["lo w"]})
    runner = MockRunner(vocab_size=VOCAB_SIZE, choose=spell("hello world"))
    assert files.run(runner=runner) == 0
    (result,) = files.results
    assert result["text"] == "hel"
    assert result["finish_reason"] == "stop_sequence"
    assert result["completion_tokens"] == len(result["token_ids"]) == len("hello w")


def test_an_engine_failure_fails_its_requests(files: Files) -> None:
    """Requests of a step that failed say so; the command does not hang and ends with 1."""

    def on_step(step: Step) -> None:
        raise RuntimeError("out of luck")

    files.write({"prompt": "abc"}, {"prompt": "abd"})
    assert files.run(runner=MockRunner(vocab_size=VOCAB_SIZE, on_step=on_step)) == 1
    assert all("internal error" in result["error"] for result in files.results)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_loses_nothing(
    files: Files, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """What was done is written, what ran is cut short, what waited says so; the exit code is 130."""
    steps = iter(range(1, 10_000))

    def on_step(step: Step) -> None:
        if next(steps) == 5:
            os.kill(os.getpid(), number)

    files.write(
        {"id": "done", "prompt": "a", "max_tokens": 2},
        {"id": "cut", "prompt": "b", "max_tokens": 2000},
        {"id": "waits", "prompt": "c", "max_tokens": 2000},
    )
    runner = MockRunner(vocab_size=VOCAB_SIZE, on_step=on_step)
    flags = ("--mode", "sequential", "--max-queue-requests", "1", "--order", "given")
    assert files.run(*flags, runner=runner) == 130
    done, cut, waits = files.results
    assert (done["id"], done["finish_reason"]) == ("done", "max_tokens")
    assert (cut["finish_reason"], cut["completion_tokens"] < 2000) == ("aborted", True)
    assert waits.get("finish_reason") == "aborted" or "not run" in waits["error"]
    assert summary(capsys)["interrupted"] is True


@pytest.mark.parametrize(("order", "expected"), [("longest-first", "321"), ("given", "123")])
def test_who_starts_first(order: str, expected: str, files: Files) -> None:
    """By default the longest answers start first; results stay in the file's order either way."""
    files.write(*({"id": str(i), "prompt": "a", "max_tokens": 3 * i} for i in (1, 2, 3)))
    started: list[str] = []

    def on_step(step: Step) -> None:
        started.extend(row.sequence.request_id for row in step.rows if row.start == 0)

    runner = MockRunner(vocab_size=VOCAB_SIZE, on_step=on_step)
    flags = ("--mode", "sequential", "--order", order)
    assert files.run(*flags, runner=runner) == 0
    assert "".join(started) == expected
    assert [result["id"] for result in files.results] == ["1", "2", "3"]


def test_repeats_are_measured_after_a_warm_up(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three passes count out of four, each with a cold prefix cache, and the median is the figure."""
    tokens = 0

    def on_step(step: Step) -> None:
        nonlocal tokens
        tokens += sum(1 for _ in step.sampling_rows)

    files.write({"prompt": "a" * 100, "max_tokens": 5}, {"prompt": "b" * 100, "max_tokens": 5})
    runner = MockRunner(vocab_size=VOCAB_SIZE, on_step=on_step)
    assert files.run("--repeat", "3", runner=runner) == 0
    assert tokens == 4 * 10
    total = summary(capsys)
    assert len(total["wall_s_runs"]) == 3
    assert total["wall_s"] == sorted(total["wall_s_runs"])[1]
    assert (total["output_tokens"], total["cached_tokens"]) == (10, 0)


def test_an_older_result_survives_a_run_that_fails(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output file is replaced when the new one is complete, never before; nothing is left beside it."""
    files.write({"prompt": "a"})
    files.output.write_text("older\n")

    def fail(options: BatchOptions) -> Loaded:
        raise RuntimeError("no model")

    with pytest.raises(RuntimeError):
        run(read_command(BATCH, [str(files.input), str(files.output)]), fail)
    assert files.output.read_text() == "older\n"
    assert sorted(path.name for path in files.output.parent.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.jsonl", "out.jsonl"], "cannot read 'missing.jsonl'"),
        (["empty.jsonl", "out.jsonl"], "no requests"),
        (["one.jsonl", "no/such/folder/out.jsonl"], "cannot write"),
        (["one.jsonl", "out.jsonl", "--repeat", "0"], "--repeat"),
        (["one.jsonl", "out.jsonl", "--max-batch", "2"], "--max-batch"),
        (["one.jsonl", "out.jsonl", "--port", "1"], "--port"),
        (["one.jsonl", "out.jsonl", "--model", "./nowhere"], "./nowhere"),
        (["one.jsonl"], "OUTPUT"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    """Nothing is run, and the line says what to change."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "one.jsonl").write_text('{"prompt": "a"}\n')
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("paceline batch: ")
    assert error.count("\n") == 1
    assert says in error


def test_one_settings_file_serves_all_commands(tmp_path: Path, files: Files) -> None:
    """What only the server knows is left alone, what nobody knows is refused."""
    toml = tmp_path / "paceline.toml"
    toml.write_text('mode = "static"\nport = 1234\n')
    argv = [str(files.input), str(files.output), "--config", str(toml)]
    assert read_command(BATCH, argv).mode == "static"
    toml.write_text("prot = 1234\n")
    assert main(argv) == 2


def test_constraints_hold_and_wrong_ones_fail_alone(files: Files) -> None:
    """A line's completion is one of its choices; a wrong constraint is that line's error."""
    files.write(
        {"prompt": "x", "choice": ["yes", "no"]},
        {"prompt": "x", "regex": "(a"},
        {"prompt": "x", "max_tokens": 2},
    )
    runner = MockRunner(vocab_size=VOCAB_SIZE)

    assert files.run(runner=runner) == 1

    first, wrong, last = files.results
    assert first["text"] in ("yes", "no") and first["finish_reason"] == "eos"
    assert "constraint.regex: unclosed group" in wrong["error"]
    assert last["completion_tokens"] == 2
