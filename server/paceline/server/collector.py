"""Python's garbage collector, kept out of the way of steps."""

from __future__ import annotations

import gc


def settle() -> None:
    """Call once everything is loaded: the collector looks at what came before no more.

    A full collection goes over all that torch, transformers and a model made, some hundred milliseconds, and it comes
    in the middle of a step.
    """
    gc.collect()
    gc.freeze()
