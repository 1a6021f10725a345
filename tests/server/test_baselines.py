"""`paceline baseline`: transformers' own `generate()`, one by one and in padded batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from paceline.server.config import ModelConfig
from paceline.server.request import Request, SamplingParams, StoppingParams
from paceline.server.runner.baselines import main, measure
from paceline.server.runner.loading import LoadedModel, load
from tiny_models import greedy_reference, save_tiny_model

PROMPTS = [[70, 71, 72, 73, 74], [80], [90, 91, 92], [60, 61], [100, 101, 102, 103]]
LENGTHS = [4, 9, 2, 6, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_tiny_model("llama", path)
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load(ModelConfig(model=str(folder), dtype="float32", device="cpu", num_threads=1))


def requests(eos: frozenset[int] = frozenset()) -> list[Request]:
    greedy = SamplingParams(temperature=0.0)
    return [
        Request(str(i), tuple(prompt), greedy, StoppingParams(length, 0, eos), 0.0)
        for i, (prompt, length) in enumerate(zip(PROMPTS, LENGTHS, strict=True))
    ]


def references(model: PreTrainedModel) -> list[list[int]]:
    return [greedy_reference(model, p, n) for p, n in zip(PROMPTS, LENGTHS, strict=True)]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_rows_are_what_generate_makes_alone(loaded: LoadedModel, size: int) -> None:
    """Left-padding changes no token, and only the tokens that were asked for are counted."""
    figures = measure(loaded, requests(), size)
    assert figures.outputs == references(loaded.model)
    assert figures.to_json()["output_tokens"] == sum(LENGTHS)


def test_end_of_sequence_ends_a_row(loaded: LoadedModel) -> None:
    """A token that ends a request is its last one, though the batch goes on."""
    expected = references(loaded.model)
    eos = expected[1][3]
    cut = [row[: row.index(eos) + 1] if eos in row else row for row in expected]
    figures = measure(loaded, requests(frozenset({eos}))[:2], 2)
    assert figures.outputs == cut[:2]
    assert len(cut[1]) < LENGTHS[1]


def test_padding_is_counted_in_computed_tokens(loaded: LoadedModel) -> None:
    """Rows as long as the longest prompt, steps as many as the longest output needs."""
    figures = measure(loaded, requests(), 5)
    real = sum(map(len, PROMPTS)) + sum(LENGTHS) - len(LENGTHS)
    assert figures.real_tokens == real
    assert figures.padded_tokens == 5 * (5 + 9 - 1)
    assert measure(loaded, requests(), 1).to_json()["padding_waste"] == 0


def test_time_ends_a_measurement_between_batches(loaded: LoadedModel) -> None:
    """At least one batch is run, no further one is begun, and what was done is counted."""
    figures = measure(loaded, requests(), 2, max_seconds=1e-9)
    assert figures.outputs == references(loaded.model)[:2]
    assert len(figures.latency_s) == 2
    assert figures.latency_s[0] == pytest.approx(figures.wall_s, rel=0.5)


def write(path: Path, **settings: Any) -> str:
    lines = [
        {"id": i, "prompt_ids": prompt, "max_tokens": length, "ignore_eos": True} | settings
        for i, (prompt, length) in enumerate(zip(PROMPTS, LENGTHS, strict=True))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_the_command_prints_a_line_for_each_size(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First one by one, then each batch size; sampled requests run too."""
    file = write(tmp_path / "in.jsonl", temperature=0.7, top_k=20, seed=3)
    flags = ["--model", str(folder), "--batch-sizes", "2,4", "--device", "cpu"]
    assert main([file, *flags, "--num-threads", "1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["system"], line["batch_size"]) for line in lines] == [
        ("transformers", 1),
        ("transformers-batched", 2),
        ("transformers-batched", 4),
    ]
    for line in lines:
        assert (line["requests"], line["requests_total"]) == (5, 5)
        assert line["output_tokens"] == sum(LENGTHS)
        assert len(line["latency_s"]) == 5
        assert line["wall_s"] > 0


@pytest.mark.parametrize("flag", ["0", "1,,2", "many"])
def test_bad_sizes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    """The flag is named, and nothing is loaded."""
    assert main([write(tmp_path / "in.jsonl"), "--batch-sizes", flag]) == 2
    error = capsys.readouterr().err
    assert error.startswith("paceline baseline: --batch-sizes: ")
    assert error.count("\n") == 1


def test_a_bad_line_ends_it_before_it_begins(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comparison needs every request, so one that cannot run stops it, with its line number."""
    file = tmp_path / "in.jsonl"
    file.write_text('{"prompt_ids": [1], "max_tokens": 1}\n{"prompt_ids": [99999]}\n')
    assert main([str(file), "--model", str(folder), "--device", "cpu", "--num-threads", "1"]) == 2
    assert "line 2: token id 99999" in capsys.readouterr().err
