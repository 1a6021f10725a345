"""The settings of `paceline bench`, each default written once, and how the time is shared out. Pure."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from paceline.loadgen import open_options
from paceline.loadgen.access import Access, without_secrets
from paceline.loadgen.mix_options import MIX_CHECKS, MIX_HELP, MixOptions
from paceline.loadgen.open_options import OpenOptions, add_open_arguments, read_open
from paceline.loadgen.options import LoadOptions, concurrency_list
from paceline.loadgen.presets import NAMES
from paceline.loadgen.slo import DEFAULT, EXAMPLE, SloError, parse_slo
from paceline.loadgen.systems import MODES
from paceline.loadgen.wire_options import WIRE_HELP, is_url
from paceline.loadgen.workload import WorkloadError, make_workload

CONCURRENCY = (1, 2, 4, 8, 16, 32)
QUICK_CONCURRENCY = (1, 4, 16)
NOTEBOOK_CONCURRENCY = (1, 2, 4, 8)
BUDGET_S, QUICK_BUDGET_S = 540.0, 105.0
OPEN_BUDGET_S, OPEN_QUICK_BUDGET_S = 270.0, 100.0
SATURATION_CONCURRENCY = (32,)
START_S = 11.0  # a server's cold start and stop
BASELINE_SHARE = 0.26
DRAIN_SHARE = 0.16
REPORT_S = 6.0
MIN_LEVEL_S = 1.0
NOTEBOOK_REQUESTS = 8
MODEL_FLAGS = {
    "model": "hub name, folder or GGUF file; unset: the embedded model",
    "dtype": "bfloat16, float16 or float32; unset: what suits the device",
    "device": "cpu, cuda, mps, …; unset: the best there is",
    "dummy-weights": "random weights of a shape instead of a model: gpt2, llama-1b, … or a config.json",
    "num-threads": "CPU threads of the model; unset: physical cores",
}
DRAWN = tuple(name for name in NAMES if name != "notebook")


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure and how long it may take."""

    concurrency: tuple[int, ...]
    modes: tuple[str, ...]
    workload: str
    target: str | None
    quick: bool
    out: Path
    seed: int
    baselines: bool
    budget_s: float
    model_arguments: tuple[str, ...] = ()  # for the server and the baselines alike
    serve_arguments: tuple[str, ...] = ()
    command: str = "paceline bench"
    slo: tuple[str, ...] = DEFAULT  # what goodput is counted under
    open: OpenOptions | None = None  # None: a closed loop
    mix: MixOptions = field(default_factory=MixOptions)
    access: Access = field(default_factory=Access)
    model_name: str = ""
    chat: bool = False

    @property
    def work_name(self) -> str:
        """What the report calls the work."""
        return self.mix.name_of(self.workload)


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
        level_min_s=round((level_s - drain_s) * 0.6, 2),
        level_max_s=round(level_s - drain_s, 2),
        drain_s=round(drain_s, 2),
        level_requests=150,
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
        tls=options.access.tls,
        ca=options.access.ca,
        token_file=options.access.token_file,
        api_key=options.access.api_key,
        insecure=options.access.insecure,
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


def parse(argv: list[str]) -> BenchOptions:
    """The settings of a command line. A bad value ends the process with one line and exit code 2."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        opened = read_open(given)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    quick = given.quick
    notebook = given.workload == "notebook"
    usual: tuple[int, ...] = QUICK_CONCURRENCY if quick else CONCURRENCY
    if notebook:
        usual = NOTEBOOK_CONCURRENCY
    budget_s = QUICK_BUDGET_S if quick else BUDGET_S
    if opened:
        usual = SATURATION_CONCURRENCY
        budget_s = OPEN_QUICK_BUDGET_S if quick else OPEN_BUDGET_S
    return BenchOptions(
        concurrency=tuple(sorted(set(given.concurrency or usual))),
        modes=given.modes or (open_options.MODES if opened else MODES),
        workload=given.workload,
        target=given.target,
        quick=quick,
        out=Path(given.out),
        seed=given.seed,
        baselines=not opened and not given.no_baselines and (given.baselines or not given.target),
        budget_s=given.budget_s or budget_s,
        model_arguments=tuple(
            part
            for name in MODEL_FLAGS
            if (value := getattr(given, name.replace("-", "_"))) is not None
            for part in (f"--{name}", value)
        ),
        serve_arguments=tuple(given.serve_arg),
        command=" ".join(["paceline", "bench", *without_secrets(argv)]),
        access=Access(given.tls, given.ca, given.token_file, given.api_key, given.insecure),
        model_name=given.model_name,
        chat=given.chat,
        mix=MixOptions.from_namespace(given),
        slo=tuple(dict.fromkeys(given.slo)) or DEFAULT,
        open=opened,
    )


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"paceline bench: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="paceline bench", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--concurrency", type=concurrency_list, help="requests in flight, for example 1,4,16")
    add("--modes", type=_modes, help=f"some of {','.join(MODES)} (open loop: continuous alone)")
    add_open_arguments(parser)
    for name, text in MODEL_FLAGS.items():
        add(f"--{name}", help=text)
    add(
        "--workload",
        type=_workload,
        default="chat",
        help=f"{', '.join(NAMES)} or a JSON-lines file",
    )
    for name, check in MIX_CHECKS.items():
        default = getattr(MixOptions(), name)
        add(f"--{name.replace('_', '-')}", type=check, default=default, help=MIX_HELP[name])
    add(
        "--target",
        type=_target,
        help="measure this running server and nothing else: host:port, or http://… with OpenAI's protocol",
    )
    for name in ("model-name", "ca", "token-file", "api-key"):
        add(f"--{name}", default="", help=WIRE_HELP[name.replace("-", "_")])
    for name in ("tls", "insecure", "chat"):
        add(f"--{name}", action="store_true", help=WIRE_HELP[name])
    add("--quick", action="store_true", help="a rough answer in under two minutes")
    add("--out", default="bench", help="folder for the runs (default: bench)")
    add("--seed", type=int, default=0, help="seed of prompts and lengths")
    add(
        "--baselines", action="store_true", help="run the transformers baselines even with --target"
    )
    add("--no-baselines", action="store_true", help="leave the transformers baselines out")
    add("--budget-s", type=_seconds, help="seconds the whole run may take")
    add(
        "--slo",
        type=_slo,
        action="append",
        default=[],
        help=f"what goodput is counted under: {EXAMPLE} or a preset; may be given again",
    )
    add(
        "--serve-arg",
        action="append",
        default=[],
        metavar="ARG",
        help="passed on to paceline serve",
    )
    return parser


def _modes(text: str) -> tuple[str, ...]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    for mode in chosen:
        if mode not in MODES:
            raise argparse.ArgumentTypeError(f"{mode!r} is not a mode: choose of {','.join(MODES)}")
    if not chosen:
        raise argparse.ArgumentTypeError("name at least one mode")
    return tuple(mode for mode in MODES if mode in chosen)


def _workload(text: str) -> str:
    try:
        make_workload(text)
    except WorkloadError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _slo(text: str) -> str:
    try:
        return parse_slo(text).name
    except SloError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _target(text: str) -> str:
    if is_url(text):
        return _url(text)
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not host:port")
    return text


def _url(text: str) -> str:
    try:
        host, _port = urlsplit(text).hostname, urlsplit(text).port
    except ValueError:
        host = None
    if not host:
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL like http://host:8000/v1")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 5 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 5 to 86400")
    return value
