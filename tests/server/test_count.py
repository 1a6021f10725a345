"""How many front ends a server gets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from paceline.server import devices
from paceline.server.config import ServeConfig
from paceline.server.processes.count import count_frontends


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with a GPU and 12 processors."""
    monkeypatch.setattr(devices, "_DRIVERS", (tmp_path,))
    monkeypatch.setattr(devices, "_torch_is_for_cpus", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 5),
        ({"device": "cuda:1"}, 5),
        ({"device": "cpu"}, 0),
        ({"device": "cpu", "frontends": 3}, 3),
        ({"frontends": 0}, 0),
        ({"frontends": 0, "replicas": 2}, 1),
        ({"device": "cpu", "replicas": 2}, 1),
    ],
)
def test_the_device_and_the_processors_decide(settings: dict[str, object], expected: int) -> None:
    """Unset: none on a CPU, on a GPU from the processors; a number is taken as it is."""
    assert count_frontends(ServeConfig.model_validate(settings)) == expected


@pytest.mark.usefixtures("gpu")
def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least one, at most eight, and none where the GPU is hidden."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert count_frontends(ServeConfig()) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)))
    assert count_frontends(ServeConfig()) == 8
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert count_frontends(ServeConfig()) == 0
