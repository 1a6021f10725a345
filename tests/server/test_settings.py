"""Settings: command line, environment, file, default, in this order."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.server import devices
from paceline.server.config import CPU_DEFAULTS, Mode, ServeConfig
from paceline.server.errors import SetupError
from paceline.server.settings import read

ON_CPU = ServeConfig.model_validate(CPU_DEFAULTS)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own settings do not count."""
    import os

    for name in list(os.environ):
        if name.startswith("PACELINE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "paceline.toml"
    path.write_text('port = 1\nmax_batch_size = 2\nmode = "static"\n')
    return path


def test_without_anything_the_defaults_hold() -> None:
    """An empty command line gives the defaults of `config`."""
    assert read([]) == ON_CPU


def test_precedence(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """The command line wins over the environment, the environment over the file, the file over defaults."""
    monkeypatch.setenv("PACELINE_PORT", "3")
    monkeypatch.setenv("PACELINE_MAX_BATCH_SIZE", "4")
    config = read(["--config", str(file), "--port", "5"])
    assert (config.port, config.max_batch_size, config.mode) == (5, 4, Mode.STATIC)
    assert config.page_size == ON_CPU.page_size


def test_none_in_the_file(tmp_path: Path) -> None:
    """A file switches the metrics port off as the command line does."""
    path = tmp_path / "paceline.toml"
    path.write_text('metrics_port = "none"\nreflection = false\n')
    config = read(["--config", str(path)])
    assert (config.metrics_port, config.reflection) == (None, False)


def test_file_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """PACELINE_CONFIG stands for --config."""
    monkeypatch.setenv("PACELINE_CONFIG", str(file))
    assert read([]).port == 1


def test_values_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches have a negative form; `none` switches a port off; numbers and names are read."""
    flags = "--no-reflection --no-prefix-cache --metrics-port none --max-wait-ms 2.5 --model a/b"
    config = read([*flags.split(), "--insecure"])
    assert (config.reflection, config.prefix_cache, config.insecure) == (False, False, True)
    assert (config.metrics_port, config.max_wait_ms, config.model) == (None, 2.5, "a/b")
    monkeypatch.setenv("PACELINE_METRICS_PORT", "none")
    monkeypatch.setenv("PACELINE_REFLECTION", "false")
    assert (read([]).metrics_port, read([]).reflection) == (None, False)


def test_foreign_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of our prefix that are no setting are somebody else's business."""
    monkeypatch.setenv("PACELINE_CACHE", "/somewhere")
    assert read([]) == ON_CPU


@pytest.mark.parametrize(
    ("flags", "source"),
    [
        (["--port", "x"], "--port: "),
        (["--max-batch-size", "0"], "--max-batch-size: "),
        (["--max-wait-ms", "nan"], "--max-wait-ms: "),
        (["--log-level", "loud"], "--log-level: "),
        (["--port"], "--port"),
        (["--por", "1"], "--por"),
        (["50051"], "50051"),
        (["--deterministic", "--prefill-chunk", "24"], "--prefill-chunk: must be a multiple"),
        (["--deterministic", "--page-size", "96"], "--prefill-chunk: must be a multiple"),
    ],
)
def test_bad_flag_is_named(flags: list[str], source: str) -> None:
    """A bad flag gives one line that names it."""
    with pytest.raises(SetupError) as caught:
        read(flags)
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad variable is named as the variable, not as a flag nobody gave."""
    monkeypatch.setenv("PACELINE_PORT", "x")
    with pytest.raises(SetupError, match=r"^PACELINE_PORT: "):
        read([])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("port = 'x'", "'port' in "),
        ("ports = 1", "there is no such setting"),
        ("port = ", "Invalid value"),
    ],
)
def test_bad_file_is_named(tmp_path: Path, text: str, line: str) -> None:
    """A bad file is named with what is wrong in it."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SetupError) as caught:
        read(["--config", str(path)])
    assert line in str(caught.value)
    assert str(path) in str(caught.value)


def test_help_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists each setting with its flag, in groups."""
    with pytest.raises(SystemExit) as caught:
        read(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in ServeConfig.model_fields:
        assert f"--{name.replace('_', '-')}" in text
    assert {"model:", "batching:", "server:"} <= set(text.splitlines())


def test_a_gpu_has_larger_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where nothing is given; what is given stays, wherever it comes from."""
    monkeypatch.setattr(devices, "_DRIVERS", (tmp_path,))
    monkeypatch.setattr(devices, "_torch_is_for_cpus", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PACELINE_MAX_STEP_TOKENS", "512")
    config = read([])
    assert (config.max_batch_size, config.max_step_tokens) == (256, 512)
    assert read(["--device", "cpu"]).max_batch_size == 32
    assert read(["--max-batch-size", "32"]).max_batch_size == 32
