"""Seeded prompts and prompt files."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.loadgen.grpc_wire import wire_request
from paceline.loadgen.lengths import quantile_draw
from paceline.loadgen.prompt_file import read_prompts
from paceline.loadgen.workload import (
    NAMES,
    Prompt,
    WorkloadError,
    first_prompts,
    make_workload,
    offline_lines,
    schedule_sha256,
)
from paceline.server.offline import Line


@pytest.mark.parametrize("name", [*NAMES, "fixed:10:20:±0.5", "multi-turn:2:chat", "cancel:0.5"])
def test_same_seed_same_bytes(name: str) -> None:
    """Another process, with another hash seed, makes byte-identical requests from the same seed."""
    code = (
        "import sys; from paceline.loadgen.workload import make_workload, schedule_sha256; "
        "sys.stdout.write(schedule_sha256(make_workload(sys.argv[1], seed=11)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, name],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "12345"},
    ).stdout
    assert printed == schedule_sha256(make_workload(name, seed=11))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("notebook",)])
def test_another_seed_is_another_schedule(name: str) -> None:
    """The seed decides prompts and lengths."""
    assert schedule_sha256(make_workload(name)) != schedule_sha256(make_workload(name, seed=1))


def test_levels_differ_only_in_the_tag() -> None:
    """Request i has the same text and lengths at every level, behind a tag no other request has."""
    workload = make_workload("chat")
    tags = set()
    for index in range(50):
        here, there = workload.prompt(index, 0), workload.prompt(index, 3)
        assert here.text is not None and there.text is not None
        (tag, text), (other_tag, other_text) = here.text.split(" ", 1), there.text.split(" ", 1)
        assert text == other_text and here.max_tokens == there.max_tokens
        assert len(tag) == len(other_tag)
        tags |= {tag, other_tag}
    assert len(tags) == 100


@pytest.mark.parametrize("name", ["chat", "fixed:10:20", "cancel", "multi-turn"])
def test_a_nonce_changes_the_tag_and_not_the_schedule(name: str) -> None:
    """No prompt of two runs begins alike, though the work and its fingerprint are the same."""
    one, other = make_workload(name), make_workload(name, nonce=123_456)
    assert schedule_sha256(one) == schedule_sha256(other)
    levels = [(index, level) for index in range(50) for level in range(6)]
    texts = [w.prompt(index, level).text or "" for w in (one, other) for index, level in levels]
    assert len({text[:7] for text in texts}) == len(texts)
    assert [text[7:] for text in texts[: len(levels)]] == [t[7:] for t in texts[len(levels) :]]


def test_chat_has_the_shape_of_its_source() -> None:
    """Scaled lengths keep the quantiles of the trace and stay within the stated bounds."""
    prompts = list(first_prompts(make_workload("chat"), 4000))
    outputs = [prompt.max_tokens for prompt in prompts]
    quartiles = statistics.quantiles(outputs, n=4)
    assert quartiles == pytest.approx([85 * 0.31, 129 * 0.31, 395 * 0.31], rel=0.06)
    assert (min(outputs), max(outputs)) == (8, 128)
    assert all(prompt.ignore_eos for prompt in prompts)
    words = statistics.median(len((prompt.text or "").split()) for prompt in prompts)
    assert 20 <= words <= 40


def test_quantile_draw_matches_its_table() -> None:
    """Draws fall below each tabulated value as often as the table says."""
    rng = random.Random(4)
    table = (0, 10, 25, 50, 75, 90, 95, 99, 100)
    draws = [quantile_draw(rng, table) for _ in range(20_000)]
    for value in table[1:-1]:
        assert sum(draw < value for draw in draws) / len(draws) == pytest.approx(
            value / 100, abs=0.01
        )


def test_mixed_is_nine_to_one() -> None:
    """One request in ten is long, and says so."""
    prompts = list(first_prompts(make_workload("mixed"), 3000))
    assert {(p.kind, p.max_tokens) for p in prompts} == {("long", 128), ("short", 24)}
    assert sum(p.kind == "long" for p in prompts) / 3000 == pytest.approx(0.1, abs=0.02)


def test_notebook() -> None:
    """Eight prompts, 50 tokens each, temperature 0.7, begun again after the eighth."""
    workload = make_workload("notebook")
    eight = list(first_prompts(workload, 8))
    assert {(p.max_tokens, p.temperature, p.ignore_eos) for p in eight} == {(50, 0.7, True)}
    assert len({p.text for p in eight}) == 8
    assert workload.prompt(8) == replace(eight[0], id="notebook-0.1")


def test_output_factor() -> None:
    """The factor scales outputs, never below one token, and is stated."""
    workload = make_workload("fixed:10:20", tokens_scale=0.01)
    assert workload.prompt(0).max_tokens == 1
    assert "x 0.01" in workload.notes
    assert make_workload("fixed:10:20", tokens_scale=2.0).prompt(0).max_tokens == 40


@pytest.mark.parametrize("name", ["chat", "notebook"])
def test_offline_lines_ask_for_the_same(tmp_path: Path, name: str) -> None:
    """A workload written for the offline runner and read back gives the same requests."""
    path = tmp_path / "same.jsonl"
    path.write_text("".join(offline_lines(make_workload(name), 8)))
    prompts = tuple(first_prompts(make_workload(name), 8))
    assert read_prompts(path).prompts == prompts


def test_file_of_ids_and_text(tmp_path: Path) -> None:
    """A file may give text or token ids; what it leaves out has defaults; blank lines do not count."""
    path = tmp_path / "own.jsonl"
    lines = [
        {"prompt": "hello", "max_tokens": 3},
        {"id": "b", "prompt_ids": [1, 2], "ignore_eos": True, "temperature": 0.5, "seed": 9},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    workload = make_workload(str(path))
    assert workload.prompt(0) == Prompt(
        "1", text="hello", max_tokens=3, ignore_eos=False, temperature=1.0
    )
    assert workload.prompt(3) == Prompt(
        "b.1", prompt_ids=(1, 2), max_tokens=256, ignore_eos=True, temperature=0.5, seed=9
    )


def test_a_file_may_say_who_asks(tmp_path: Path) -> None:
    """Priority, deadline, cancel, kind, moment, chat messages and later turns of a line reach the request."""
    path = tmp_path / "own.jsonl"
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    line = {"messages": messages, "max_tokens": 9, "priority": -3, "deadline_s": 1.5}
    path.write_text(
        json.dumps(line | {"cancel_after": 4, "kind": "vip", "at": 0.25, "turns": ["and then?"]})
    )
    (prompt,) = read_prompts(path).prompts
    assert (prompt.priority, prompt.deadline_s, prompt.cancel_after) == (-3, 1.5, 4)
    assert (prompt.kind, prompt.at_s, prompt.label) == ("vip", 0.25, "vip/turn 1")
    sent = wire_request(prompt).generation
    assert sent.priority == -3
    assert [(m.role, m.content) for m in sent.chat.messages] == [
        ("system", "be brief"),
        ("user", "hi"),
    ]
    following = prompt.next_turn("hello")
    assert following is not None and following.max_tokens == 9
    assert following.messages == (
        *(prompt.messages or ()),
        ("assistant", "hello"),
        ("user", "and then?"),
    )
    assert Line.model_validate(prompt.to_json()).messages is not None


def test_a_file_means_what_it_means_offline(tmp_path: Path) -> None:
    """Defaults and options are those of the offline format, and reach the wire and a file written from them."""
    path = tmp_path / "own.jsonl"
    own = {"top_k": 5, "top_p": 0.5, "min_p": 0.25, "min_tokens": 2, "stop": ["x", "yz"]}
    path.write_text("\n".join(map(json.dumps, [{"prompt": "a"}, {"prompt": "a"} | own])))
    plain, rich = read_prompts(path).prompts
    default = Line(prompt="a")
    assert (plain.max_tokens, plain.ignore_eos) == (default.max_tokens, default.ignore_eos)
    assert plain.temperature == default.temperature
    assert own.items() <= rich.to_json().items()
    sent = wire_request(rich).generation
    sampling, stopping = sent.sampling, sent.stopping
    assert (sampling.top_k, sampling.top_p, sampling.min_p) == (5, 0.5, 0.25)
    assert (stopping.min_tokens, list(stopping.stop)) == (2, ["x", "yz"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no prompts"),
        ("not json", "own.jsonl:1: "),
        ('{"prompt": "a"}\n{"id": 1}', "own.jsonl:2: exactly one of"),
        ('{"prompt": "a", "prompt_ids": [1]}', "exactly one of"),
        ('{"prompt": "a", "max_tokens": "many"}', "own.jsonl:1: "),
        ('{"prompt": "a", "logit_bias": {}}', "own.jsonl:1: the load generator cannot send"),
        ('{"prompt": "a", "stop": "x"}', "own.jsonl:1: `stop` must be a list"),
        ("[1]", "own.jsonl:1: "),
        ('{"prompt_ids": [-1]}', "own.jsonl:1: -1 is not"),
        ('{"prompt": "a", "max_tokens": -5}', "own.jsonl:1: -5 is not"),
        ('{"prompt": "a", "priority": 101}', "own.jsonl:1: 101 is not a priority"),
        ('{"prompt": "a", "deadline_s": 0}', "own.jsonl:1: 0 is not a number of seconds"),
        ('{"prompt": "a", "cancel_after": 0}', "own.jsonl:1: `cancel_after` must be at least 1"),
        ('{"prompt": "a", "at": -1}', "own.jsonl:1: -1 is not a number of seconds"),
        ('{"prompt": "a", "kind": 3}', "own.jsonl:1: `kind` must be text"),
        ('{"prompt": "a", "kind": "probe"}', "own.jsonl:1: `kind` 'probe' is kept"),
        ('{"prompt": "a", "turns": "b"}', "own.jsonl:1: `turns` must be a list"),
        ('{"prompt_ids": [1], "turns": ["b"]}', "own.jsonl:1: `turns` go on from"),
        ('{"messages": []}', "own.jsonl:1: `messages` must be a list"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, complaint: str) -> None:
    """What is wrong with a file is said with its name and line."""
    path = tmp_path / "own.jsonl"
    path.write_text(text)
    with pytest.raises(WorkloadError, match=complaint):
        make_workload(str(path))


BAD_SPECS = (
    *("nonsense", "chat:1", "fixed:1", "fixed:a:b", "fixed:0:5", "fixed:5:5:2", "cancel:1.5"),
    *("shared-prefix:0:9", "shared-prefix:3", "multi-turn:0", "multi-turn:2:x"),
    *("deadline:5", "deadline:2:1", "cancel:1:2", "notebook:2"),
)


@pytest.mark.parametrize("spec", BAD_SPECS)
def test_bad_names(spec: str) -> None:
    """An unknown name, or numbers that a preset cannot use, are refused in one line that repeats them."""
    with pytest.raises(WorkloadError, match=f"'{spec}'") as refused:
        make_workload(spec)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_factors(scale: float) -> None:
    """A length factor must be a positive number."""
    with pytest.raises(WorkloadError, match="above 0"):
        make_workload("chat", tokens_scale=scale)
