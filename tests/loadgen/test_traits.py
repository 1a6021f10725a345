"""Mixes, priorities, deadlines and planned cancels."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.loadgen.mix_options import MixOptions, parse_mix, parse_priorities
from paceline.loadgen.workload import (
    WorkloadError,
    first_prompts,
    make_workload,
    schedule_sha256,
)


def test_cancel_preset() -> None:
    """The told share of clients leaves after a token that is not the last, early and late alike."""
    prompts = list(first_prompts(make_workload("cancel:0.3"), 3000))
    leaving = [p for p in prompts if p.cancel_after is not None]
    assert len(leaving) / 3000 == pytest.approx(0.3, abs=0.03)
    assert all(1 <= (p.cancel_after or 0) < p.max_tokens for p in leaving)
    part = statistics.mean((p.cancel_after or 0) / p.max_tokens for p in leaving)
    assert part == pytest.approx(0.5, abs=0.04)


def test_deadline_preset() -> None:
    """Deadlines are drawn evenly by their logarithm between the two told ones."""
    prompts = list(first_prompts(make_workload("deadline:1:16"), 3000))
    logs = [math.log2(p.deadline_s or 0.0) for p in prompts]
    assert 0 <= min(logs) < 0.01 and 3.99 < max(logs) <= 4
    assert statistics.quantiles(logs, n=4) == pytest.approx([1, 2, 3], abs=0.15)


def test_traits_leave_the_work_alone() -> None:
    """No setting changes texts and lengths, and none changes what another one draws."""
    plain = make_workload("chat", seed=5)
    cancels, both = MixOptions(cancel_share=0.2), MixOptions(cancel_share=0.2, priorities="0=1,5=1")
    for left, right, other in zip(
        first_prompts(plain, 200),
        first_prompts(cancels.workload_of("chat", seed=5), 200),
        first_prompts(both.workload_of("chat", seed=5), 200),
        strict=True,
    ):
        assert replace(right, cancel_after=None) == left
        assert replace(other, priority=0) == right


def test_priorities_by_share() -> None:
    """Each priority is drawn by its share."""
    options = MixOptions(priorities="0=0.7,-5=0.1,5=0.2")
    counts = Counter(p.priority for p in first_prompts(options.workload_of("chat"), 3000))
    assert {value: count / 3000 for value, count in counts.items()} == pytest.approx(
        {0: 0.7, -5: 0.1, 5: 0.2}, abs=0.03
    )


def test_what_a_request_brings_stays(tmp_path: Path) -> None:
    """A file's own deadline and cancel are kept; the settings are for requests without."""
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a", "deadline_s": 9, "cancel_after": 2}\n{"prompt": "b"}\n')
    own, other = first_prompts(MixOptions(deadline=3, cancel_share=1).workload_of(str(path)), 2)
    assert (own.deadline_s, own.cancel_after) == (9, 2)
    assert other.deadline_s == 3 and other.cancel_after is not None


def test_a_mix_draws_by_weight() -> None:
    """Parts come by their weights, ids are unique, and kinds name part and part's own kind."""
    workload = MixOptions(mix="chat=6,mixed=2,fixed:8:4=1,fixed:9:4=1").workload_of("")
    prompts = list(first_prompts(workload, 4000))
    counts = Counter(p.kind.split("/")[0] for p in prompts)
    assert {kind: count / 4000 for kind, count in counts.items()} == pytest.approx(
        {"chat": 0.6, "mixed": 0.2, "fixed:8:4": 0.1, "fixed:9:4": 0.1}, abs=0.03
    )
    assert {"mixed/short", "mixed/long"} < {p.kind for p in prompts}
    assert len({p.id for p in prompts}) == 4000
    assert "60 % chat: Azure" in workload.notes and set(workload.factors) == set(counts)


def test_a_mix_sends_what_its_parts_would() -> None:
    """Request i of a mix is request i of the part it was drawn from."""
    mix = MixOptions(mix="chat=1,code=1").workload_of("", seed=2, nonce=7)
    parts = {name: make_workload(name, seed=2, nonce=7) for name in ("chat", "code")}
    for index, prompt in enumerate(first_prompts(mix, 100, level=3)):
        assert prompt.text == parts[prompt.kind].prompt(index, 3).text


@pytest.mark.parametrize(
    "change",
    [
        {"mix": "chat=1,code=1"},
        {"mix": "chat=1,code=2"},
        {"priorities": "0=1,5=1"},
        {"deadline": 2.0},
        {"cancel_share": 0.5},
        {"length_scale": 0.5},
    ],
)
def test_the_fingerprint_covers_every_setting(change: dict[str, object]) -> None:
    """Mix, priorities, deadlines, cancels and lengths make another schedule; the nonce does not."""
    options = MixOptions(**change)  # type: ignore[arg-type]  # by keyword
    changed = schedule_sha256(options.workload_of("chat", seed=1))
    assert changed == schedule_sha256(options.workload_of("chat", seed=1, nonce=99))
    assert changed != schedule_sha256(make_workload("chat", seed=1))
    assert changed != schedule_sha256(options.workload_of("chat", seed=2))


@pytest.mark.parametrize("text", ["chat", "chat=", "chat=x", "chat=0", "chat=-1", "=1", "chat=nan"])
def test_bad_mixes(text: str) -> None:
    """What is not a list of workloads with weights is refused with what was written."""
    with pytest.raises(WorkloadError, match=text):
        parse_mix(text)


@pytest.mark.parametrize("text", ["5", "x=1", "101=1", "1.5=1"])
def test_bad_priorities(text: str) -> None:
    """Priorities are whole numbers from -100 to 100 with shares."""
    with pytest.raises(WorkloadError, match=text):
        parse_priorities(text)


def test_a_mix_names_no_workload_twice() -> None:
    """Two parts of one name could not be told apart."""
    with pytest.raises(WorkloadError, match="twice"):
        MixOptions(mix="chat=1,chat=2").workload_of("")
