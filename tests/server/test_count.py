"""How many front ends a server gets, and what each of its engines."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from paceline.server import cores, devices
from paceline.server.config import ServeConfig
from paceline.server.errors import SetupError
from paceline.server.processes.count import count_frontends
from paceline.server.processes.shares import config_of
from paceline.server.runner.rank import follow_torchrun


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


@pytest.mark.usefixtures("gpu")
def test_each_engine_has_a_gpu_of_its_own() -> None:
    """By its number, unless there is one engine; a GPU's name for all of them is refused."""
    config = ServeConfig(replicas=2)
    assert [config_of(i, config).device for i in (0, 1)] == ["cuda:0", "cuda:1"]
    one = ServeConfig(device="cuda:3")
    assert config_of(0, one) is one
    with pytest.raises(SetupError, match="--device cuda:3 is one GPU, and --replicas 2 takes"):
        config_of(1, ServeConfig(device="cuda:3", replicas=2))


def test_engines_on_a_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its part of the threads, one at least, but what was asked for as it is."""
    monkeypatch.setattr(cores, "usable", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for replicas, threads in [(2, 3), (8, 1)]:
        config = ServeConfig(device="cpu", replicas=replicas)
        assert config_of(1, config).num_threads == threads
        assert config_of(1, config).device == "cpu"
    assert config_of(0, ServeConfig(device="cpu", replicas=2, num_threads=5)).num_threads == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert config_of(0, ServeConfig(device="cpu", replicas=2)).num_threads is None


def test_ranks_are_of_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several engines of several ranks are refused, and under torchrun, by every rank, front ends too."""
    with pytest.raises(SetupError, match="--tensor-parallel 2 and --replicas 3 exclude each other"):
        count_frontends(ServeConfig(tensor_parallel=2, replicas=3))
    config = ServeConfig(device="cpu", tensor_parallel=2, frontends=1)
    assert count_frontends(config) == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for start in (count_frontends, follow_torchrun):
        with pytest.raises(SetupError, match="--frontends 1: under torchrun rank 0 is one process"):
            start(config)
