"""What front ends observe: plain counts that add up, over time and over processes. Pure."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import msgspec

from .glimpse import Ended, Glimpse
from .request import Finish, FinishReason

# Small models answer in milliseconds and a busy CPU in minutes; steps of about 1, 2, 5.
_SECONDS = tuple(base * 10.0**power for power in range(-3, 3) for base in (1.0, 2.0, 5.0))
_TOKENS = tuple(
    float(base * 10**power) for power in range(6) for base in (1, 2, 5) if base * 10**power <= 10**5
)
_ROWS = tuple(float(2**power) for power in range(10))


@dataclass(frozen=True, slots=True)
class Scale:
    """What a histogram is about, and the upper bounds of its bins (one more holds the rest)."""

    text: str
    bounds: tuple[float, ...] = _SECONDS


SCALES = {
    "time_to_first_token_seconds": Scale("From arrival to the first token."),
    "inter_token_latency_seconds": Scale("Between tokens of a completion."),
    "request_time_per_output_token_seconds": Scale("Mean after the first token, per completion."),
    "e2e_request_latency_seconds": Scale("From arrival to the end of a completion."),
    "request_queue_time_seconds": Scale("From arrival until scheduled."),
    "request_prefill_time_seconds": Scale("From scheduled until the first token."),
    "request_decode_time_seconds": Scale("From the first token to the last."),
    "request_batch_rows": Scale("Mean rows of the steps that a completion was in.", _ROWS),
    "request_prompt_tokens": Scale("Length of the prompt, per completion.", _TOKENS),
    "request_generation_tokens": Scale("Tokens of a completion.", _TOKENS),
}


class Bins(msgspec.Struct, array_like=True):
    """A histogram's contents: how many values fell under each bound, and their sum."""

    counts: list[int]
    total: float = 0.0


def _empty() -> dict[str, Bins]:
    return {name: Bins([0] * (len(scale.bounds) + 1)) for name, scale in SCALES.items()}


class Tally(msgspec.Struct):
    """Histograms by name, completions by how they ended, calls by their status, and refused ones by the reason.

    One thread writes. A reader on another one may see a value counted whose sum is not added yet.
    """

    bins: dict[str, Bins] = msgspec.field(default_factory=_empty)
    finished: dict[str, int] = msgspec.field(default_factory=dict)
    statuses: dict[str, int] = msgspec.field(default_factory=dict)
    glimpse: Glimpse = msgspec.field(default_factory=Glimpse)
    refused: dict[str, int] = msgspec.field(default_factory=dict)

    def made(self, tokens: int, seconds: float) -> None:
        """A completion gained tokens, `seconds` after its earlier ones."""
        self._observe("inter_token_latency_seconds", seconds / tokens, tokens)
        self.glimpse.between(seconds / tokens, tokens)

    def ended(self, finish: Finish) -> None:
        """A completion ended."""
        reason = finish.reason.value
        self.finished[reason] = self.finished.get(reason, 0) + 1
        usage, timings = finish.usage, finish.timings
        self._observe("request_prompt_tokens", usage.prompt_tokens)
        self._observe("request_generation_tokens", usage.completion_tokens)
        self._observe("request_queue_time_seconds", timings.queue_s)
        self._observe("e2e_request_latency_seconds", timings.total_s)
        if not timings.ttft_s:  # it never got a token
            return
        self._observe("time_to_first_token_seconds", timings.ttft_s)
        self.glimpse.first(timings.ttft_s)
        self._observe("request_prefill_time_seconds", timings.prefill_s)
        self._observe("request_decode_time_seconds", timings.decode_s)
        self._observe("request_batch_rows", timings.batch_rows_mean)
        if (seconds := finish.tpot_s) is not None:
            self._observe("request_time_per_output_token_seconds", seconds)

    def left(self, reason: FinishReason) -> None:
        """A completion's caller went away before its end."""
        self.finished[reason.value] = self.finished.get(reason.value, 0) + 1

    def answered(self, status: str, refusal: str = "") -> None:
        """A generation call, or an item of a batch, ended with this gRPC status; see `PacelineError.refusal`."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if refusal:
            self.refused[refusal] = self.refused.get(refusal, 0) + 1

    def request(self, ended: Ended) -> None:
        """A request that had a job, a call or an item of a batch, ended."""
        self.glimpse.end((ended,))

    def add(self, other: Tally) -> None:
        """Counts what `other` counted too."""
        for name, bins in other.bins.items():
            mine = self.bins[name]
            mine.counts = [a + b for a, b in zip(mine.counts, bins.counts, strict=True)]
            mine.total += bins.total
        _add(self.finished, other.finished)
        _add(self.statuses, other.statuses)
        _add(self.refused, other.refused)
        self.glimpse.add(other.glimpse)

    def take(self) -> Tally:
        """What was counted since the last time; counting begins anew."""
        taken = Tally(self.bins, self.finished, self.statuses, self.glimpse.take(), self.refused)
        self.bins, self.finished, self.statuses, self.refused = _empty(), {}, {}, {}
        return taken

    @property
    def empty(self) -> bool:
        """Whether nothing was counted."""
        return not (
            self.finished or self.statuses or any(any(b.counts) for b in self.bins.values())
        )

    def _observe(self, name: str, value: float, times: int = 1) -> None:
        bins = self.bins[name]
        bins.counts[bisect_left(SCALES[name].bounds, value)] += times
        bins.total += value * times


def _add(mine: dict[str, int], other: dict[str, int]) -> None:
    for key, count in other.items():
        mine[key] = mine.get(key, 0) + count
