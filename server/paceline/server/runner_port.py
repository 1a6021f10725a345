"""What computes steps, as the engine sees it."""

from __future__ import annotations

from typing import Protocol

from .rectangles import Buckets
from .request import ModelInfo
from .step import Sampled, Step


class Runner(Protocol):
    """Computes steps. Called on the engine's thread alone.

    That is more than order: OpenMP keeps a pool of workers for every thread that ever computed, and
    once all pools together have more threads than the machine has processors, its workers sleep
    between operators instead of spinning. A step then takes twice as long.
    """

    info: ModelInfo
    num_pages: int  # the padding page included
    buckets: Buckets
    # Whether a step may be launched before the one before it is collected. The newest token of a
    # sequence may be missing from such a step's rows; the runner has it, under the sequence's slot.
    ahead: bool

    def warm_up(self) -> None:
        """Runs once before the first step: whatever is slow the first time happens here."""
        ...

    def launch(self, step: Step) -> object:
        """Starts a step and returns a handle at once. Steps are executed in the order of launching.

        Raises:
            StepOutOfMemory: here or in `collect`; the step is computed again in smaller parts.
        """
        ...

    def collect(self, handle: object) -> Sampled:
        """Waits for a launched step: one token for each of its `sampling_rows`, in order."""
        ...

    def close(self) -> None: ...


class WrappedRunner:
    """A `Runner` that has another one do everything; subclasses change a part."""

    def __init__(self, inner: Runner) -> None:
        self.info = inner.info
        self.num_pages = inner.num_pages
        self.buckets = inner.buckets
        self.ahead = inner.ahead
        self._inner = inner

    def warm_up(self) -> None:
        self._inner.warm_up()

    def launch(self, step: Step) -> object:
        return self._inner.launch(step)

    def collect(self, handle: object) -> Sampled:
        return self._inner.collect(handle)

    def close(self) -> None:
        self._inner.close()
