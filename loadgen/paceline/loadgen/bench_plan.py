"""How a bench shares its time out over modes, levels and baselines, and what it tells the load generator. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from paceline.loadgen.bench_options import BenchOptions
from paceline.loadgen.options import LoadOptions
from paceline.loadgen.presets import NAMES
from paceline.loadgen.wire_options import is_url

START_S = 11.0  # a server's cold start and stop
BASELINE_SHARE = 0.26
DRAIN_SHARE = 0.16
REPORT_S = 6.0
MIN_LEVEL_S = 1.0
QUICK_REQUESTS = 12  # then a level leaves its time to those with more in flight
NOTEBOOK_REQUESTS = 8
DRAWN = tuple(name for name in NAMES if name != "notebook")


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds and requests for each part of a run."""

    level_min_s: float
    level_max_s: float
    drain_s: float
    level_requests: int
    tokens_scale: float
    baseline_s: float
    baseline_requests: int
    baseline_sizes: tuple[int, ...]

    def expected_s(self, modes: int, levels: int) -> float:
        """How long the whole run should take at most."""
        per_mode = START_S + levels * (self.level_max_s + self.drain_s)
        return self.baseline_s + modes * per_mode + REPORT_S


def make_plan(
    options: BenchOptions, *, spent_s: float = 0.0, modes_left: int | None = None
) -> Plan:
    """Shares `budget_s` out: a fixed part to baselines, what is left evenly to every level of every mode.

    Made anew before each mode: what slow starts took is given back by the levels that follow.
    """
    modes = modes_left or (1 if options.target else len(options.modes))
    own_starts = 0.0 if options.target else modes * START_S
    baseline_s = BASELINE_SHARE * options.budget_s if options.baselines else 0.0
    left = options.budget_s - spent_s - own_starts - baseline_s - REPORT_S
    level_s = max(MIN_LEVEL_S, left / (modes * len(options.concurrency)))
    drain_s = DRAIN_SHARE * level_s
    return Plan(
        level_min_s=round((level_s - drain_s) * (0.4 if options.quick else 0.6), 2),
        level_max_s=round(level_s - drain_s, 2),
        drain_s=round(drain_s, 2),
        level_requests=QUICK_REQUESTS if options.quick else 150,
        tokens_scale=_tokens_scale(options),
        baseline_s=baseline_s,
        baseline_requests=_baseline_requests(options),
        baseline_sizes=_baseline_sizes(options.concurrency, quick=options.quick),
    )


def _tokens_scale(options: BenchOptions) -> float:
    """Shorter answers on the small budget of a small machine: more requests fit in a level, and drains are short."""
    drawn = options.mix.mix or options.workload.split(":")[0] in DRAWN
    if options.mix.length_scale or not drawn:
        return 1.0
    return 0.4 if options.quick else 0.6


def _baseline_sizes(sizes: tuple[int, ...], *, quick: bool) -> tuple[int, ...]:
    """In a hurry a batch of one is left out: one by one says the same."""
    return tuple(size for size in sizes if size > 1 or not quick) or sizes


def _baseline_requests(options: BenchOptions) -> int:
    """Enough prompts to fill the largest batch, at most 32."""
    if options.workload == "notebook":
        return NOTEBOOK_REQUESTS
    return min(32, max(8, *options.concurrency))


def load_options(
    options: BenchOptions, plan: Plan, *, target: str, mode: str, out: Path, nonce: int
) -> LoadOptions:
    """What the load generator is told for one mode."""
    return LoadOptions(
        **asdict(options.mix),
        target=target,
        protocol="openai" if is_url(target) else "grpc",
        model_name=options.model_name,
        chat=options.chat,
        strict=options.strict,
        insecure=options.access.insecure,
        tls=options.access.tls,
        ca=options.access.ca,
        token_file=options.access.token_file,
        api_key=options.access.api_key,
        workload=options.workload,
        seed=options.seed,
        concurrency=options.concurrency,
        level_min_s=plan.level_min_s,
        level_max_s=plan.level_max_s,
        level_requests=plan.level_requests,
        # One at a time: the opening wave would outlast the level, and nothing about it is special.
        level_warmup=1 if mode == "sequential" else -1,
        drain_s=plan.drain_s,
        max_tokens_scale=plan.tokens_scale,
        nonce=nonce,
        out=str(out),
        label=mode,
    )
