"""The settings of `paceline bench`, each default written once. Pure."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from paceline.loadgen import open_options
from paceline.loadgen.access import Access, without_secrets
from paceline.loadgen.mix_options import MIX_CHECKS, MIX_HELP, MixOptions
from paceline.loadgen.open_options import OpenOptions, add_open_arguments, read_open
from paceline.loadgen.option_checks import CHECKS, concurrency_list, slo_name
from paceline.loadgen.presets import NAMES
from paceline.loadgen.slo import DEFAULT, EXAMPLE
from paceline.loadgen.systems import MODES
from paceline.loadgen.wire_options import WIRE_HELP, is_url

CONCURRENCY = (1, 2, 4, 8, 16, 32)
QUICK_CONCURRENCY = (1, 4, 8)
NOTEBOOK_CONCURRENCY = (1, 2, 4, 8)
BUDGET_S, QUICK_BUDGET_S = 540.0, 105.0
OPEN_BUDGET_S, OPEN_QUICK_BUDGET_S = 270.0, 100.0
SATURATION_CONCURRENCY = (32,)
MOST_REPEATS = 10
MODEL_FLAGS = {
    "model": "hub name, folder or GGUF file; unset: the embedded model",
    "dtype": "bfloat16, float16 or float32; unset: what suits the device",
    "device": "cpu, cuda, mps, …; unset: the best there is",
    "dummy-weights": "random weights of a shape instead of a model: gpt2, llama-1b, … or a config.json",
    "num-threads": "CPU threads of the model; unset: physical cores",
}


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
    strict: bool = False
    repeat: int = 1  # how often the whole matrix is measured

    @property
    def work_name(self) -> str:
        """What the report calls the work."""
        return self.mix.name_of(self.workload)


def parse(argv: list[str]) -> BenchOptions:
    """The settings of a command line. A bad value ends the process with one line and exit code 2."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        opened = read_open(given)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    if given.repeat > 1 and opened and opened.calibrated:
        parser.error("--repeat measures the same levels again: give --rates as numbers")
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
        strict=given.strict,
        mix=MixOptions.from_namespace(given),
        slo=tuple(dict.fromkeys(given.slo)) or DEFAULT,
        open=opened,
        repeat=given.repeat,
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
        type=CHECKS["workload"],
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
    for name in ("tls", "insecure", "chat", "strict"):
        add(f"--{name}", action="store_true", help=WIRE_HELP[name])
    add("--quick", action="store_true", help="a rough answer in under two minutes")
    add("--out", default="bench", help="folder for the runs (default: bench)")
    add("--seed", type=int, default=0, help="seed of prompts and lengths")
    add(
        "--baselines", action="store_true", help="run the transformers baselines even with --target"
    )
    add("--no-baselines", action="store_true", help="leave the transformers baselines out")
    add("--budget-s", type=_seconds, help="seconds the whole run may take, each repeat of it")
    add(
        "--repeat",
        type=_repeats,
        default=1,
        metavar="N",
        help=f"measure everything so often (at most {MOST_REPEATS}), in rotated order: medians, spread, noise floor",
    )
    add(
        "--slo",
        type=slo_name,
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


def _repeats(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MOST_REPEATS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MOST_REPEATS}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 5 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 5 to 86400")
    return value
