"""The systems a bench compares, in the order and with the names every picture and table uses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class System:
    """A batching mode of the server, or a baseline run through `transformers` itself."""

    key: str
    label: str
    short: str
    is_mode: bool
    rule: str


SYSTEMS = (
    System(
        "sequential",
        "Sequential",
        "Sequential",
        True,
        "One request at a time. All others wait their turn, however short they are.",
    ),
    System(
        "static",
        "Static batching",
        "Static",
        True,
        "Requests are collected into a batch and leave together. A row whose answer is complete"
        " stays, empty, until the longest answer of the batch is done.",
    ),
    System(
        "dynamic",
        "Dynamic batching",
        "Dynamic",
        True,
        "Whatever waits becomes a batch. Complete rows leave and the batch shrinks, but nobody"
        " may join before its last row has ended.",
    ),
    System(
        "continuous",
        "Continuous batching",
        "Continuous",
        True,
        "A request may join at any step and leaves at its own last token. A row that falls free"
        " is refilled at the next step.",
    ),
    System(
        "transformers",
        "transformers, one by one",
        "tf one by one",
        False,
        "generate() of the transformers library, one prompt after the other.",
    ),
    System(
        "transformers-batched",
        "transformers, padded batches",
        "tf batches",
        False,
        "generate() of the transformers library on left-padded batches.",
    ),
)
MODES = tuple(system.key for system in SYSTEMS if system.is_mode)
BASELINES = tuple(system.key for system in SYSTEMS if not system.is_mode)
_BY_KEY = {system.key: system for system in SYSTEMS} | {
    "openai": System(
        "openai",
        "OpenAI-compatible server",
        "OpenAI",
        True,
        "Another server, asked over HTTP. How it batches is its own affair and not known here.",
    )
}


def system(key: str) -> System:
    """The system of that key; an unknown one (a foreign server's mode) is shown by its own name."""
    return _BY_KEY.get(key) or System(key, key, key, True, "")
