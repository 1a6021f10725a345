"""The offline format: one request a line in, one result a line out. Pure.

A request line is a JSON object with `prompt` (text), `prompt_ids` or `messages` (a chat), and what `Line` names
besides; the defaults are those of the service. A result line has `id`, `text`, `token_ids`, `finish_reason`,
`prompt_tokens` and `completion_tokens`, or `id`, `line` and `error`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .request import Constraint, SamplingParams, StoppingParams

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
BiasedToken = Annotated[int, Field(ge=0, lt=2**31, strict=False)]  # JSON's keys are strings
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
Pattern = Annotated[str, Field(min_length=1, max_length=4096)]
Schema = Annotated[str, Field(min_length=1, max_length=32_768)]
# Below it, logits divided by the temperature leave the range of a 32-bit float.
MIN_TEMPERATURE = 1e-5
_INPUTS = ("prompt", "prompt_ids", "messages")
_CONSTRAINTS = ("choice", "regex", "json_schema")


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: str
    content: str


class Line(BaseModel):
    """A checked request line."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    id: str | int | None = None
    prompt: str | None = Field(None, min_length=1)
    prompt_ids: list[TokenId] | None = Field(None, min_length=1)
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    max_tokens: int = Field(256, ge=1)
    min_tokens: int = Field(0, ge=0)
    ignore_eos: bool = False
    stop: list[StopString] = Field([], max_length=16)
    stop_token_ids: list[TokenId] = Field([], max_length=64)
    temperature: float = Field(1.0, ge=0, le=100)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[BiasedToken, Bias] = Field({}, max_length=1024)
    seed: int | None = Field(None, ge=0, lt=2**64)
    choice: list[Pattern] | None = Field(None, min_length=1, max_length=1000)
    regex: Pattern | None = None
    json_schema: Schema | dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_together(self) -> Line:
        given = [name for name in _INPUTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(_INPUTS)} is required")
        constraints = [name for name in _CONSTRAINTS if getattr(self, name) is not None]
        if len(constraints) > 1:
            raise ValueError(f"at most one of {', '.join(_CONSTRAINTS)} is allowed")
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise ValueError(f"temperature must be 0 (greedy) or at least {MIN_TEMPERATURE:g}")
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens must be at most max_tokens ({self.max_tokens})")
        return self

    def sampling(self, seed: int) -> SamplingParams:
        """How tokens are chosen; `seed` where the line has none."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=tuple(sorted(self.logit_bias.items())),
            seed=seed if self.seed is None else self.seed,
        )

    def constraint(self) -> Constraint | None:
        """What the completion must be."""
        if self.choice is not None:
            return Constraint("choice", tuple(self.choice))
        if self.regex is not None:
            return Constraint("regex", (self.regex,))
        schema = self.json_schema
        if schema is None:
            return None
        return Constraint(
            "json_schema", (schema if isinstance(schema, str) else json.dumps(schema),)
        )

    def stopping(self, eos_token_ids: Iterable[int]) -> StoppingParams:
        """When the completion ends by its tokens."""
        return StoppingParams(
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            eos_token_ids=frozenset() if self.ignore_eos else frozenset(eos_token_ids),
            stop_token_ids=frozenset(self.stop_token_ids),
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the file: its number from 1, its id (the number, if it has none), and the request or what is wrong."""

    number: int
    id: str | int
    request: Line | str

    def failure(self, problem: str) -> dict[str, Any]:
        """The result line of a request that was not run to its end."""
        return {"id": self.id, "line": self.number, "error": f"line {self.number}: {problem}"}


def entries(lines: Iterable[bytes]) -> Iterator[Entry]:
    """One entry for each line that is not blank; a bad line costs only itself."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _entry(number, line)


def _entry(number: int, line: bytes) -> Entry:
    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        return Entry(number, number, "not UTF-8")
    except (ValueError, RecursionError) as exc:
        return Entry(number, number, f"not JSON: {exc}")
    if not isinstance(value, dict):
        return Entry(number, number, "not a JSON object")
    own_id = value.get("id")
    name = own_id if isinstance(own_id, str | int) and not isinstance(own_id, bool) else number
    try:
        return Entry(number, name, Line.model_validate(value))
    except ValidationError as exc:
        return Entry(number, name, "; ".join(_problems(exc)))


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False)[:8]:
        path = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "there is no such field"
        yield f"{path}: {message}" if path else message
