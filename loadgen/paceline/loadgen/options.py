"""The settings of a load run, each default written once. Pure."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from paceline.loadgen.access import Access
from paceline.loadgen.mix_options import MIX_CHECKS, MIX_HELP, MixOptions
from paceline.loadgen.presets import NAMES
from paceline.loadgen.wire_options import FROM_ENVIRONMENT, WIRE_CHECKS, WIRE_HELP, base_url
from paceline.loadgen.workload import Workload, WorkloadError, make_workload

DEFAULT_TARGET = "127.0.0.1:50051"


@dataclass(frozen=True, slots=True)
class LoadOptions(MixOptions):
    """What to send where, and how a sweep goes through its levels. Times are seconds."""

    target: str = ""
    protocol: str = "grpc"
    model_name: str = ""
    chat: bool = False
    tls: bool = False
    ca: str = ""
    token_file: str = ""
    api_key: str = ""
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
    out: str = ""
    label: str = "run"

    @classmethod
    def from_namespace(cls, namespace: argparse.Namespace) -> LoadOptions:
        """The settings Locust parsed (or sent from its master)."""
        values = {f.name: getattr(namespace, f.name) for f in fields(cls)}
        values["concurrency"] = concurrency_list(values["concurrency"])
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
    def access(self) -> Access:
        """Encryption and token of the connection."""
        return Access(self.tls, self.ca, self.token_file, self.api_key)

    def address(self, host: str | None) -> str:
        """Where to send: `target`, else Locust's host. gRPC has no scheme, OpenAI's protocol a whole base URL."""
        chosen = self.target or host or DEFAULT_TARGET
        if self.protocol == "openai":
            return base_url(chosen)
        return chosen.split("://")[-1].rstrip("/")

    def warmup_requests(self, level: int) -> int:
        """Requests at the start of a level that are not measured: by default its opening wave."""
        return level if self.level_warmup < 0 else self.level_warmup


def concurrency_list(value: Any) -> tuple[int, ...]:
    """`1,2,4` (or a list of numbers) as a tuple of positive numbers. ArgumentTypeError otherwise."""
    parts = value.split(",") if isinstance(value, str) else value or ()
    try:
        levels = tuple(int(part) for part in parts if str(part).strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not a list like 1,2,4") from None
    if any(level < 1 for level in levels):
        raise argparse.ArgumentTypeError(f"{value!r}: every level must be at least 1")
    return levels


HELP = {
    "target": f"server, host:port (default: --host, or {DEFAULT_TARGET})",
    "workload": f"{', '.join(NAMES)}, some with numbers as in fixed:PROMPT:OUTPUT, or a JSON-lines file",
    "seed": "seed of prompts and lengths",
    "concurrency": "levels of a sweep, for example 1,2,4; without it, --users sets the concurrency",
    "level_min_s": "a level lasts at least so long after its warm-up",
    "level_max_s": "a level stops sending after so long, whatever else",
    "level_requests": "a level lasts until so many measured requests have ended",
    "level_warmup": "first requests of a level that are not measured (-1: as many as its users)",
    "drain_s": "what is still running so long after a level stopped sending is cut off",
    "max_tokens_scale": "factor on the output lengths of a preset",
    "nonce": "shifts the tags of drawn prompts, so that no prefix cache knows them (-1: drawn)",
    "request_timeout_s": "deadline of each call",
    "channels": "gRPC connections per process",
    "out": "new folder for requests.<worker>.jsonl, one line per generation",
    "label": "name of the run in the records, for example the server's batching mode",
    **MIX_HELP,
    **WIRE_HELP,
}
IN_WEB_UI = ("workload", "seed", "max_tokens_scale")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings to Locust's parser; a bad value ends the command with one line and code 2."""
    for setting in fields(LoadOptions):
        extra: dict[str, Any] = {"include_in_web_ui": setting.name in IN_WEB_UI}
        if setting.name == "concurrency":
            extra |= {"type": lambda text: list(concurrency_list(text)), "default": []}
        elif isinstance(setting.default, bool):
            extra |= {"action": "store_true", "default": setting.default}
        else:
            kind = CHECKS.get(setting.name, type(setting.default))
            extra |= {"type": kind, "default": setting.default}
        flag = setting.name.replace("_", "-")
        if "action" not in extra:
            extra["metavar"] = f"<{flag}>"
        parser.add_argument(f"--{flag}", help=HELP[setting.name], **extra)


def _at_least(kind: type[int] | type[float], low: float) -> Callable[[str], float]:
    def check(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= low):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least {low:g}")
        return value

    return check


def _workload(text: str) -> str:
    try:
        make_workload(text)
    except WorkloadError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _new_folder(text: str) -> str:
    if text and any(Path(text).glob("requests.*.jsonl")):
        raise argparse.ArgumentTypeError(f"{text!r} holds the records of an earlier run")
    return text


CHECKS: dict[str, Callable[[str], Any]] = {
    **MIX_CHECKS,
    **WIRE_CHECKS,
    "workload": _workload,
    "out": _new_folder,
    "level_min_s": _at_least(float, 0),
    "level_max_s": _at_least(float, 0.1),
    "level_requests": _at_least(int, 0),
    "level_warmup": _at_least(int, -1),
    "drain_s": _at_least(float, 0),
    "max_tokens_scale": _at_least(float, 0.001),
    "nonce": _at_least(int, -1),
    "request_timeout_s": _at_least(float, 0.001),
    "channels": _at_least(int, 1),
}
