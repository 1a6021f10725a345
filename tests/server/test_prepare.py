from __future__ import annotations

from pathlib import Path

import pytest

from paceline.server import embedded
from paceline.server.runner.prepare import main


def test_the_embedded_model_is_made_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without flags it is the embedded model that is fetched, once."""
    asked: list[object] = []
    monkeypatch.setattr(embedded, "ensure", asked.append)
    assert main([]) == 0
    assert len(asked) == 1


def test_what_is_here_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder needs nothing, and random weights have no files."""
    monkeypatch.setattr(embedded, "ensure", pytest.fail)
    assert main(["--model", str(tmp_path)]) == 0
    assert main(["--dummy-weights", "gpt2", "--dtype", "float32"]) == 0


def test_a_bad_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and why."""
    assert main(["--model", "./nowhere.gguf"]) == 2
    assert capsys.readouterr().err == "paceline: no such model folder or file: './nowhere.gguf'\n"
