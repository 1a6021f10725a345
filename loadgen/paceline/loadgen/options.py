"""The settings of a load run, each default written once. Pure."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from paceline.loadgen.access import Access
from paceline.loadgen.arrivals import EXAMPLES, ArrivalError, parse_arrival
from paceline.loadgen.mix_options import MIX_HELP, MixOptions, parse_mix
from paceline.loadgen.option_checks import CHECKS, POISSON, concurrency_list, rate_list
from paceline.loadgen.presets import NAMES
from paceline.loadgen.wire_options import FROM_ENVIRONMENT, WIRE_HELP, base_url
from paceline.loadgen.workload import Workload, WorkloadError, make_workload

DEFAULT_TARGET = "127.0.0.1:50051"


@dataclass(frozen=True, slots=True)
class LoadOptions(MixOptions):
    """What to send where, and how a sweep goes through its levels. Times are seconds."""

    target: str = ""
    protocol: str = "grpc"
    model_name: str = ""
    chat: bool = False
    strict: bool = False
    tls: bool = False
    ca: str = ""
    token_file: str = ""
    api_key: str = ""
    insecure: bool = False
    workload: str = "chat"
    seed: int = 0
    concurrency: tuple[int, ...] = ()
    level_min_s: float = 5.0
    level_max_s: float = 30.0
    level_requests: int = 20
    level_warmup: int = -1
    drain_s: float = 30.0
    max_tokens_scale: float = 1.0
    nonce: int = -1
    request_timeout_s: float = 600.0
    channels: int = 2
    trace_share: float = 0.0
    out: str = ""
    label: str = "run"
    slo: str = "ttft=2000,tpot=200"
    arrival: str = ""
    rate: float = 0.0
    rates: tuple[float, ...] = ()
    max_outstanding: int = 1024
    over_saturation: str = "stop"
    first_level: int = 0

    @classmethod
    def from_namespace(cls, namespace: argparse.Namespace) -> LoadOptions:
        """The settings Locust parsed (or sent from its master)."""
        values = {f.name: getattr(namespace, f.name) for f in fields(cls)}
        values["concurrency"] = concurrency_list(values["concurrency"])
        values["rates"] = rate_list(values["rates"])
        return cls(**values)

    def to_arguments(self) -> list[str]:
        """The command-line arguments that give these settings; defaults and secrets are left out."""
        arguments: list[str] = []
        for setting in fields(self):
            value = getattr(self, setting.name)
            if value is True:
                arguments.append(f"--{setting.name.replace('_', '-')}")
            elif value != setting.default and setting.name not in FROM_ENVIRONMENT:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                arguments += [f"--{setting.name.replace('_', '-')}", text]
        return arguments

    def make_workload(self, nonce: int, context_tokens: int) -> Workload:
        """The requests of a run, fitted to the served model's context (0: unknown). Raises WorkloadError."""
        return self.workload_of(
            self.workload,
            seed=self.seed,
            tokens_scale=self.max_tokens_scale,
            nonce=nonce,
            context_tokens=context_tokens,
        )

    @property
    def open_rates(self) -> tuple[float | None, ...]:
        """Rates of an open loop's levels; (None,) where the arrivals bring their own, () in a closed loop.

        Raises ArrivalError where the settings do not fit together.
        """
        own = bool(self.arrival) and parse_arrival(self.arrival).has_own_rate
        given = self.rates or ((self.rate,) if self.rate else ())
        if own and given:
            raise ArrivalError(f"{self.arrival} has its own rate: leave --rate and --rates out")
        if (own or given) and self.concurrency:
            raise ArrivalError("give either --concurrency (closed loop) or a rate (open loop)")
        return (None,) if own else given

    @property
    def arrivals(self) -> str:
        """How an open loop's requests arrive: as asked for, else as the workload is meant to."""
        return self.arrival or _own_arrivals(self.workload, self.mix)

    @property
    def access(self) -> Access:
        """Encryption and token of the connection."""
        return Access(self.tls, self.ca, self.token_file, self.api_key, self.insecure)

    def address(self, host: str | None) -> str:
        """Where to send: `target`, else Locust's host. gRPC has no scheme, OpenAI's protocol a whole base URL."""
        chosen = self.target or host or DEFAULT_TARGET
        if self.protocol == "openai":
            return base_url(chosen)
        return chosen.split("://")[-1].rstrip("/")

    def warmup_requests(self, level: int) -> int:
        """Requests at the start of a level that are not measured: by default its opening wave."""
        return level if self.level_warmup < 0 else self.level_warmup


@functools.cache  # a file of requests is read once
def _own_arrivals(workload: str, mix: str) -> str:
    try:
        return make_workload(workload, mix=parse_mix(mix)).arrival or POISSON
    except WorkloadError:  # whoever sends it will say so
        return POISSON


HELP = {
    "target": f"server, host:port (default: --host, or {DEFAULT_TARGET})",
    "workload": f"{', '.join(NAMES)}, some with numbers as in fixed:PROMPT:OUTPUT, or a JSON-lines file",
    "seed": "seed of prompts and lengths",
    "concurrency": "levels of a sweep, for example 1,2,4; without it, --users sets the concurrency",
    "level_min_s": "a level lasts at least so long after its warm-up",
    "level_max_s": "a level stops sending after so long, and what earlier levels left of theirs, whatever else",
    "level_requests": "a level lasts until so many measured requests have ended",
    "level_warmup": "first requests of a level that are not measured (-1: as many as its users)",
    "drain_s": "what is still running so long after a level stopped sending is cut off",
    "max_tokens_scale": "factor on the output lengths of a preset",
    "nonce": "shifts the tags of drawn prompts, so that no prefix cache knows them (-1: drawn)",
    "request_timeout_s": "deadline of each call",
    "channels": "gRPC connections per process",
    "trace_share": "grpc: share of the requests, 0 to 1, that the server is to trace; records have the trace_id",
    "out": "new folder for requests.<worker>.jsonl, one line per generation",
    "label": "name of the run in the records, for example the server's batching mode",
    **MIX_HELP,
    **WIRE_HELP,
    "slo": "what a request must meet, in ms: ttft=450,tpot=40, or a preset such as llama2-70b-interactive",
    "arrival": f"how an open loop's requests arrive: {EXAMPLES} (default: the workload's own, else poisson)",
    "rate": "requests a second of an open loop (0: closed loop)",
    "rates": "rates of an open-loop sweep, for example 1,2,4; each is a level",
    "max_outstanding": "arrivals beyond so many in flight are dropped and counted, not sent",
    "over_saturation": "after a rate that the server did not keep up with: stop, or continue with higher ones",
    "first_level": "number of the first level, which tells its prompts from those of other runs",
}
# Settings that the web UI's form offers, of whichever module adds them to the parser.
IN_WEB_UI = ("workload", "arrival", "rate", "slo", "seed", "max_tokens_scale")
LISTS: dict[str, Callable[[str], list[Any]]] = {
    "concurrency": lambda text: list(concurrency_list(text)),
    "rates": lambda text: list(rate_list(text)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings to Locust's parser; a bad value ends the command with one line and code 2."""
    for setting in fields(LoadOptions):
        extra: dict[str, Any] = {"include_in_web_ui": setting.name in IN_WEB_UI}
        if setting.name in LISTS:
            extra |= {"type": LISTS[setting.name], "default": []}
        elif isinstance(setting.default, bool):
            extra |= {"action": "store_true", "default": setting.default}
        else:
            kind = CHECKS.get(setting.name, type(setting.default))
            extra |= {"type": kind, "default": setting.default}
        flag = setting.name.replace("_", "-")
        if "action" not in extra:
            extra["metavar"] = f"<{flag}>"
        parser.add_argument(f"--{flag}", help=HELP[setting.name], **extra)


def check_form(form: Mapping[str, str]) -> str | None:
    """What is wrong with a filled form, in one line that names the field; None where nothing is."""
    for name, text in form.items():
        if name == "rate" and text in ("", "0"):
            continue  # what a form's number field sends for its default of 0.0: a closed loop
        if name in IN_WEB_UI and name in CHECKS:
            try:
                CHECKS[name](text)
            except argparse.ArgumentTypeError as error:
                return f"{name.replace('_', ' ')}: {error}"
    return None
