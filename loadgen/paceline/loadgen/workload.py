"""What is asked of the server: seeded prompts. Request i is the same in every run and mode."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from paceline.loadgen.english import NONCES
from paceline.loadgen.mixture import Mixture, Part
from paceline.loadgen.presets import NAMES, preset
from paceline.loadgen.prompt import Prompt, WorkloadError
from paceline.loadgen.prompt_file import read_prompts
from paceline.loadgen.scale import Scale
from paceline.loadgen.source import Source as Workload
from paceline.loadgen.traits import Traits, WithTraits

__all__ = [
    "NAMES",
    "NONCES",
    "Prompt",
    "Workload",
    "WorkloadError",
    "first_prompts",
    "make_workload",
    "offline_lines",
    "schedule_sha256",
]

HASHED_REQUESTS = 256


def make_workload(
    spec: str,
    *,
    seed: int = 0,
    tokens_scale: float = 1.0,
    nonce: int = 0,
    length_scale: float = 0.0,
    context_tokens: int = 0,
    mix: tuple[tuple[str, float], ...] = (),
    traits: Traits | None = None,
) -> Workload:
    """The workload of a preset's name or of a JSON-lines file; of all parts of `mix` (spec, weight) where it is given.

    `tokens_scale` multiplies the output lengths of drawn presets, `nonce` tells runs of them apart
    to a prefix cache. `length_scale` takes a trace's own lengths times itself; what is drawn is made to
    fit `context_tokens` where they are known. Raises WorkloadError.
    """
    scale = Scale(seed, nonce, tokens_scale, length_scale, context_tokens)
    workload = _mixture(mix, scale) if mix else _one(spec, scale)
    if traits is not None and traits != Traits():
        return WithTraits(workload, traits, seed)
    return workload


def _one(spec: str, scale: Scale) -> Workload:
    drawn = preset(spec, scale)
    if drawn is not None:
        return drawn
    path = Path(spec)
    try:
        return read_prompts(path)
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(
            f"workload {spec!r} is neither a preset ({', '.join(NAMES)}) "
            f"nor a readable file: {error}"
        ) from error


def _mixture(mix: tuple[tuple[str, float], ...], scale: Scale) -> Workload:
    whole = sum(weight for _, weight in mix)
    parts = tuple(_part(spec, weight / whole, scale) for spec, weight in mix)
    if len({part.label for part in parts}) < len(parts):
        raise WorkloadError("a mix names a workload twice")
    return Mixture(parts, scale.seed)


def _part(spec: str, weight: float, scale: Scale) -> Part:
    """Presets are called as they were written, files by their stem."""
    source = _one(spec, scale)
    return Part(spec if spec.split(":")[0] in NAMES else source.name, source, weight)


def first_prompts(workload: Workload, count: int, level: int = 0) -> Iterator[Prompt]:
    """Requests 0 to `count` - 1; of conversations the first turns."""
    return (workload.prompt(index, level) for index in range(count))


def offline_lines(workload: Workload, count: int) -> Iterator[str]:
    """The first requests as lines of the offline format, for `paceline batch` and the baselines."""
    return (json.dumps(prompt.to_json()) + "\n" for prompt in first_prompts(workload, count))


def schedule_sha256(workload: Workload) -> str:
    """A fingerprint of the first 256 requests but for the nonce: two runs with the same one asked for the same.

    It covers ids, texts and later turns, lengths, seeds, priorities, deadlines, cancels and kinds.
    """
    digest = hashlib.sha256()
    for prompt in first_prompts(workload.untagged(), HASHED_REQUESTS):
        digest.update(json.dumps(asdict(prompt), sort_keys=True).encode())
    return digest.hexdigest()
