"""Choosing device, number format and threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from paceline.server import cores
from paceline.server.errors import SetupError
from paceline.server.runner import hardware

CPU = torch.device("cpu")


def test_named_formats_are_taken_as_they_are() -> None:
    """A format that is asked for is given, whether the device is quick at it or not."""
    assert hardware.pick_dtype("float16", CPU) is torch.float16


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_only_where_it_is_native(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU that would emulate bfloat16 gets float32."""
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": native}, raising=False
    )
    expected = torch.bfloat16 if native else torch.float32
    assert hardware.pick_dtype("auto", CPU) is expected


def test_processor_flags_decide_where_torch_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before torch could be asked, the system's own list of flags is read."""
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for flags, expected in [("fpu avx512_bf16 sse", True), ("fpu avx512f", False)]:
        monkeypatch.setattr(Path, "read_text", lambda _self, flags=flags: f"flags : {flags}\n")
        assert hardware.has_bfloat16(CPU) is expected


def test_threads_follow_request_environment_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request wins; OMP_NUM_THREADS is respected; else no more than the cores this process may use."""
    assert hardware.pick_threads(7) == 7
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert hardware.pick_threads(None) == torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= hardware.pick_threads(None) <= len(os.sched_getaffinity(0))


def test_a_container_limit_bounds_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of a CPU and a half is two threads, and none is no bound."""
    quota = tmp_path / "cpu.max"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "_cores", lambda: 16)
    monkeypatch.setattr(cores, "_CGROUP_QUOTA", quota)
    quota.write_text("150000 100000\n")
    assert hardware.pick_threads(None) == 2
    quota.write_text("max 100000\n")
    assert hardware.pick_threads(None) == 16


def test_a_device_that_is_not_there_is_one_line() -> None:
    """The name that was given is in the line."""
    with pytest.raises(SetupError, match=r"^device 'abacus' cannot be used here: [^\n]*$"):
        hardware.pick_device("abacus")
