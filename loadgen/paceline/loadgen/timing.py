"""One generation as the load generator saw it, and the times defined on it.

t_int is the moment an open loop intended to send it, t_send the moment the call was sent, t_1 that of
the first message with at least one token (it holds n_1 tokens), t_k that of the k-th such message (n_k
tokens), t_n that of the last, t_end that of the status; n is the sum of all n_k. All are seconds of
`time.perf_counter()`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate
from typing import Any

PROBE_KIND = "probe"  # of short requests beside the load, which no figure of the load counts
DROPPED = "DROPPED"  # status of an arrival that was not sent


@dataclass(frozen=True, slots=True)
class ServerTimings:
    """Where the server says the time went, in milliseconds of its own clock."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    ttft_ms: float
    total_ms: float
    batch_rows_mean: float


@dataclass(frozen=True, slots=True)
class Record:
    """One generation. `stamps_us` are microseconds: t_1 less t_send, then each t_k less t_(k-1).

    Attributes:
        t_int: None in a closed loop, which has no schedule.
        rate: requests a second that an open loop's level intends; None in a closed loop.
        kind: class of the request in a mix, for example `short`, `long` or `probe`.
        deadline_s: what the request itself asks for, None where only the run's time limit holds.
        repeat: which measurement of the same level it belongs to, from 0.
        trace_id: under which the server's spans of it are found; empty where it was not traced.
        cancelled_by_plan: the workload cancelled it after some tokens, as its clients do: no failure.
    """

    id: str
    mode: str
    level: int
    phase: str
    worker: int
    t_send: float
    t_end: float
    status: str
    cut: bool = False
    stamps_us: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    requested_tokens: int = 0
    output_tokens: int = 0
    finish: str = ""
    cached_tokens: int = 0
    server: ServerTimings | None = None
    gap: bool = False
    t_int: float | None = None
    rate: float | None = None
    kind: str = ""
    priority: int = 0
    deadline_s: float | None = None
    cancelled_by_plan: bool = False
    repeat: int = 0
    trace_id: str = ""

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Record:
        """The record of one parsed line of `requests.*.jsonl`; unknown keys are ignored."""
        values = {name: line[name] for name in _FIELDS if name in line}
        server = values.get("server")
        if server is not None:
            values["server"] = ServerTimings(**{name: server[name] for name in _SERVER_FIELDS})
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, the inverse of `from_json`."""
        return asdict(self)

    @property
    def ok(self) -> bool:
        """The generation came to its own end."""
        return self.status == "OK" and not self.cut

    @property
    def missed_deadline(self) -> bool:
        """Its own deadline passed before its end: what a reader in a hurry sees, and no failure."""
        return self.status == "DEADLINE_EXCEEDED" and self.deadline_s is not None and not self.cut

    @property
    def censored(self) -> bool:
        """It would have gone on: what it shows is true, and what it lacks would have been slow."""
        return self.cut or self.missed_deadline

    @property
    def showed(self) -> bool:
        """What it shows of tokens and gaps is the server's doing, whether or not it went on to its end."""
        return self.ok or self.censored or self.cancelled_by_plan

    @property
    def dropped(self) -> bool:
        """An arrival that was not sent: too many were outstanding, or the generator was late until its level ended."""
        return self.status == DROPPED

    @property
    def measured(self) -> bool:
        """Not part of the warm-up."""
        return self.phase == "measure"

    @property
    def counted_tokens(self) -> int:
        """n: tokens that arrived, by the server's own count in each message."""
        return sum(self.tokens)

    @property
    def arrivals_s(self) -> list[float]:
        """t_1 … t_n on the common clock."""
        return [self.t_send + micros / 1e6 for micros in accumulate(self.stamps_us)]

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: t_1 - t_send. None where no token came."""
        return self.stamps_us[0] / 1e6 if self.stamps_us else None

    @property
    def dispatch_delay_s(self) -> float | None:
        """How late the generator was: t_send - t_int. None in a closed loop."""
        return None if self.t_int is None else self.t_send - self.t_int

    @property
    def ttft_scheduled_s(self) -> float | None:
        """Time to first token from the schedule: t_1 - t_int. It shows what a stalled generator would hide."""
        ttft, delay = self.ttft_s, self.dispatch_delay_s
        return None if ttft is None or delay is None else ttft + delay

    @property
    def ttft_due_s(self) -> float | None:
        """TTFT as a user feels it: from the schedule where there is one, else from the send."""
        return self.ttft_s if self.t_int is None else self.ttft_scheduled_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first: (t_n - t_1) / (n - n_1). None where n = n_1."""
        later = sum(self.tokens[1:])
        return sum(self.stamps_us[1:]) / 1e6 / later if later else None

    @property
    def interactivity(self) -> float | None:
        """Tokens a second that this one reader sees: 1 / TPOT."""
        tpot = self.tpot_s
        return 1.0 / tpot if tpot else None

    @property
    def itl_s(self) -> list[float]:
        """Inter-token latencies: each gap divided over the n_k tokens it brought, n_k entries."""
        return [
            gap / 1e6 / count
            for gap, count in zip(self.stamps_us[1:], self.tokens[1:], strict=True)
            for _ in range(count)
        ]

    @property
    def stall_s(self) -> float | None:
        """The largest gap between two messages with tokens. None with fewer than two."""
        return max(self.stamps_us[1:]) / 1e6 if len(self.stamps_us) > 1 else None

    @property
    def e2e_s(self) -> float:
        """End-to-end latency: t_end - t_send."""
        return self.t_end - self.t_send

    @property
    def e2e_scheduled_s(self) -> float | None:
        """End-to-end latency from the schedule: t_end - t_int. None in a closed loop."""
        return None if self.t_int is None else self.t_end - self.t_int

    @property
    def normalised_s(self) -> float | None:
        """End-to-end latency per token: E2E / n."""
        tokens = self.counted_tokens
        return self.e2e_s / tokens if tokens else None

    @property
    def remainder_s(self) -> float | None:
        """Network and client: TTFT less the server's own time to first token."""
        ttft = self.ttft_s
        return None if ttft is None or self.server is None else ttft - self.server.ttft_ms / 1e3


_FIELDS = tuple(f.name for f in fields(Record))
_SERVER_FIELDS = tuple(f.name for f in fields(ServerTimings))


def without_probes(records: Iterable[Record]) -> list[Record]:
    """The records of the load, which the figures of a level are made of."""
    return [record for record in records if record.kind != PROBE_KIND]
