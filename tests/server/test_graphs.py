"""What is captured, and when it is replayed. No GPU: the graph itself is a stand-in."""

from __future__ import annotations

import pytest

from paceline.server.runner.graphs import Graphs


class _Graph:
    def __init__(self, done: list[str]) -> None:
        self._done = done

    def replay(self) -> None:
        self._done.append("replayed")


def test_work_is_done_once_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that counts must not count twice the first time, when it is captured too."""
    done: list[str] = []
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: None)
    monkeypatch.setattr(Graphs, "_capture", lambda self, work: _Graph(done))
    graphs = Graphs(enabled=True)
    for key in ("a", "a", "b", "a"):
        graphs.run(key, lambda: done.append("worked"))
    assert done == ["worked", "replayed", "worked", "replayed"]
    assert len(graphs) == 2


def test_without_graphs_work_is_done_as_it_comes() -> None:
    """Switched off, nothing is kept."""
    done: list[str] = []
    graphs = Graphs(enabled=False)
    graphs.run("a", lambda: done.append("worked"))
    graphs.run("a", lambda: done.append("worked"))
    assert done == ["worked"] * 2
    assert len(graphs) == 0
