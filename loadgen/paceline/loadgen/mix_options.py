"""Settings of who asks beside what is asked: mixes, priorities, deadlines, cancels, probes, lengths. Pure."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from paceline.loadgen.prompt import WorkloadError
from paceline.loadgen.traits import Traits
from paceline.loadgen.workload import Workload, make_workload


@dataclass(frozen=True, slots=True)
class MixOptions:
    """As written on a command line; each default changes nothing."""

    mix: str = ""
    priorities: str = ""
    deadline: float = 0.0
    cancel_share: float = 0.0
    probe: float = 0.0
    length_scale: float = 0.0
    think_s: float = 1.0

    @classmethod
    def from_namespace(cls, namespace: argparse.Namespace) -> MixOptions:
        return MixOptions(**{f.name: getattr(namespace, f.name) for f in fields(MixOptions)})

    @property
    def traits(self) -> Traits:
        """What every request gets that does not bring its own."""
        return Traits(
            priorities=parse_priorities(self.priorities),
            deadline_s=(self.deadline, self.deadline) if self.deadline else None,
            cancel_share=self.cancel_share,
        )

    def name_of(self, workload: str) -> str:
        """The work's name in a report: that of the mix where there is one."""
        return self.mix or workload

    def workload_of(
        self,
        spec: str,
        *,
        seed: int = 0,
        tokens_scale: float = 1.0,
        nonce: int = 0,
        context_tokens: int = 0,
    ) -> Workload:
        """What these settings ask for; `spec` is what all of it is where there is no mix. Raises WorkloadError."""
        return make_workload(
            spec,
            seed=seed,
            tokens_scale=tokens_scale,
            nonce=nonce,
            length_scale=self.length_scale,
            context_tokens=context_tokens,
            mix=parse_mix(self.mix),
            traits=self.traits,
        )


def parse_mix(text: str) -> tuple[tuple[str, float], ...]:
    """`chat=0.8,code=0.2` as (spec, weight) pairs. Raises WorkloadError."""
    return _pairs(text, "chat=0.8,code=0.2")


def parse_priorities(text: str) -> tuple[tuple[int, float], ...]:
    """`0=0.9,5=0.1` as (priority, share) pairs; shares are made to add up to 1. Raises WorkloadError."""
    example = "0=0.9,5=0.1"
    pairs = _pairs(text, example)
    whole = sum(weight for _, weight in pairs)
    try:
        found = tuple((int(word), weight / whole) for word, weight in pairs)
    except ValueError:
        raise WorkloadError(f"{text!r} is not a list like {example}") from None
    if any(not -100 <= priority <= 100 for priority, _ in found):
        raise WorkloadError(f"{text!r}: priorities go from -100 to 100")
    return found


def _pairs(text: str, example: str) -> tuple[tuple[str, float], ...]:
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        word, _, number = part.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not word or not (math.isfinite(weight) and weight > 0):
            raise WorkloadError(f"{text!r} is not a list like {example}")
        found.append((word, weight))
    return tuple(found)


def _text(read: Callable[[str], Any]) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            read(text)
        except WorkloadError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return text

    return check


def _number(high: float) -> Callable[[str], float]:
    def check(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {high:g}")
        return value

    return check


MIX_HELP = {
    "mix": "several workloads by weight instead of one, for example chat=0.8,code=0.2",
    "priorities": "priorities by share, for example 0=0.9,5=0.1 (smaller is served sooner)",
    "deadline": "seconds after which a call without a deadline of its own ends; such calls are missed, not failed",
    "cancel_share": "share of the requests that the client cancels after some tokens",
    "probe": "short requests a second beside the load, reported apart: do they wait for long ones?",
    "length_scale": "take a trace's own lengths times this; 0 keeps the presets' factors for small machines",
    "think_s": "mean seconds between an answer and the reader's next turn, for conversations in an open loop",
}
MIX_CHECKS: dict[str, Callable[[str], Any]] = {
    "mix": _text(lambda text: text and make_workload("", mix=parse_mix(text))),
    "priorities": _text(parse_priorities),
    "deadline": _number(1e6),
    "cancel_share": _number(1.0),
    "probe": _number(1000.0),
    "length_scale": _number(100.0),
    "think_s": _number(3600.0),
}
