"""CUDA graphs, one for each shape.

Replaying one costs the host microseconds, where launching its kernels one by one costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch


class Graphs:
    """Captures what it runs, once for each key, and replays it from then on.

    All graphs share one pool of memory: they run one after the other, so what one holds in between is free for the
    next. What a graph reads and writes must stay where it is. The first time a key is run, its work is done in the
    ordinary way, in which kernels are compiled and libraries take their workspaces, and then captured for later.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if enabled else None

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Does `work`, or replays it."""
        if not self._enabled:
            work()
            return
        graph = self._graphs.get(key)
        if graph is not None:
            graph.replay()
            return
        work()
        # Capturing computes nothing, and must not be followed by a replay: work that counts would count twice.
        self._graphs[key] = self._capture(work)

    def _capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        # Not `torch.cuda.graph`, which collects garbage and empties caches each time: seconds, over all shapes.
        torch.cuda.current_stream().synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            work()
        finally:
            graph.capture_end()
        return graph
