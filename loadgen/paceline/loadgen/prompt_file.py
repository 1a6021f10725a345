"""Prompts of a JSON-lines file: the offline format of `paceline batch`, and what only a running server can be asked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paceline.loadgen.listed import Listed
from paceline.loadgen.prompt import Prompt, Turn, WorkloadError
from paceline.loadgen.timing import PROBE_KIND

INPUTS = ("prompt", "prompt_ids", "messages")
# The offline format's own defaults: a file asks for the same work there and here.
FILE_MAX_TOKENS, FILE_TEMPERATURE = 256, 1.0


def read_prompts(path: Path) -> Listed:
    """The file's prompts. Raises OSError and UnicodeDecodeError; WorkloadError names the bad line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    prompts = tuple(
        _read_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()
    )
    if not prompts:
        raise WorkloadError(f"{path}: no prompts")
    return Listed(path.stem, f"{len(prompts)} prompts of {path.name}", prompts)


def _read_line(path: Path, number: int, line: str) -> Prompt:
    try:
        return _prompt(json.loads(line), number)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise WorkloadError(f"{path}:{number}: {error}") from error


def _prompt(fields: dict[str, Any], number: int) -> Prompt:
    if unknown := sorted(fields.keys() - FIELDS - OPTIONS.keys()):
        raise WorkloadError(f"the load generator cannot send {unknown[0]!r}")
    if sum(name in fields for name in INPUTS) != 1:
        raise WorkloadError("exactly one of `prompt`, `prompt_ids` and `messages` is needed")
    max_tokens = _counted(fields.get("max_tokens", FILE_MAX_TOKENS), 32)
    return Prompt(
        id=str(fields.get("id", number)),
        text=str(fields["prompt"]) if "prompt" in fields else None,
        prompt_ids=_optional(fields, "prompt_ids", _ids),
        messages=_optional(fields, "messages", _messages),
        max_tokens=max_tokens,
        ignore_eos=bool(fields.get("ignore_eos", False)),
        temperature=float(fields.get("temperature", FILE_TEMPERATURE)),
        seed=_counted(fields.get("seed", 0), 64),
        options=tuple(
            (name, read(fields[name])) for name, read in OPTIONS.items() if name in fields
        ),
        priority=_priority(fields.get("priority", 0)),
        deadline_s=_optional(fields, "deadline_s", lambda value: _seconds(value, above_0=True)),
        cancel_after=_optional(fields, "cancel_after", _at_least_one),
        kind=_kind(fields.get("kind", "")),
        at_s=_optional(fields, "at", lambda value: _seconds(value, above_0=False)),
        turns=_turns(fields, max_tokens),
    )


def _optional(fields: dict[str, Any], name: str, read: Callable[[Any], Any]) -> Any:
    return read(fields[name]) if name in fields else None


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(_counted(token, 32) for token in value)


def _messages(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise WorkloadError("`messages` must be a list of objects with `role` and `content`")
    return tuple((_string("role", m["role"]), _string("content", m["content"])) for m in value)


def _turns(fields: dict[str, Any], max_tokens: int) -> tuple[Turn, ...]:
    turns = fields.get("turns", [])
    if not isinstance(turns, list):
        raise WorkloadError("`turns` must be a list of strings")
    if turns and "prompt_ids" in fields:
        raise WorkloadError(
            "`turns` go on from a `prompt` or from `messages`, not from `prompt_ids`"
        )
    return tuple(Turn(_string("turns", text), max_tokens) for text in turns)


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise WorkloadError(f"`{name}` must be text, not {value!r}")
    return value


def _kind(value: Any) -> str:
    if _string("kind", value) == PROBE_KIND:
        raise WorkloadError(f"`kind` {PROBE_KIND!r} is kept for the probes beside a load")
    return str(value)


def _priority(value: Any) -> int:
    number = int(value)
    if not -100 <= number <= 100:
        raise WorkloadError(f"{number} is not a priority from -100 to 100")
    return number


def _seconds(value: Any, *, above_0: bool) -> float:
    seconds = float(value)
    if not (math.isfinite(seconds) and (seconds > 0 if above_0 else seconds >= 0)):
        raise WorkloadError(f"{value!r} is not a number of seconds")
    return seconds


def _at_least_one(value: Any) -> int:
    if (number := _counted(value, 32)) < 1:
        raise WorkloadError("`cancel_after` must be at least 1")
    return number


def _counted(value: Any, bits: int) -> int:
    """The value as an unsigned integer that fits the wire."""
    number = int(value)
    if not 0 <= number < 2**bits:
        raise WorkloadError(f"{number} is not a number from 0 to 2**{bits} - 1")
    return number


def _stop_strings(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise WorkloadError("`stop` must be a list of strings")
    return value


FIELDS = {
    *INPUTS,
    *("id", "max_tokens", "ignore_eos", "temperature", "seed"),
    *("priority", "deadline_s", "cancel_after", "kind", "at", "turns"),
}
# What else a line may set, with what reads it; the server knows the bounds.
OPTIONS: dict[str, Callable[[Any], Any]] = {
    "top_k": lambda value: _counted(value, 32),
    "top_p": float,
    "min_p": float,
    "min_tokens": lambda value: _counted(value, 32),
    "stop": _stop_strings,
}
