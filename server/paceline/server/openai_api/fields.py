"""The JSON of a request, checked for shape and types; bounds are the service's to check."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from ..errors import InvalidRequest, Violation
from ..validation import MAX_BATCH_ITEMS, MAX_CHAT_MESSAGES, MAX_LOGIT_BIAS

# Labels for whoever keeps accounts: no answer would be another without them.
_LABELS = ("metadata", "prompt_cache_key", "safety_identifier", "user")
# Fields of others' servers that this one does not have, and values that ask for nothing. Null never does.
REFUSED: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "add_special_tokens": (),
        "allowed_token_ids": (),
        "audio": (),
        "bad_words": ([],),
        "best_of": (1,),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "documents": (),
        "early_stopping": (False,),
        "function_call": ("none",),
        "functions": ([],),
        "guided_grammar": (),
        "length_penalty": (1.0,),
        "modalities": (["text"],),
        "parallel_tool_calls": (True, False),
        "prediction": (),
        "prompt_logprobs": (),
        "reasoning_effort": (),
        "return_token_ids": (False,),
        "service_tier": ("auto", "default"),
        "spaces_between_special_tokens": (True,),
        "store": (False,),
        "suffix": ("",),
        "tool_choice": ("none",),
        "tools": ([],),
        "use_beam_search": (False,),
        "verbosity": (),
        "web_search_options": (),
    }
)
_MAX_NAME = 200
_MAX_FIELDS = 200  # far more than any object here has
_MAX_REASONS = 16
# Lists, objects and their members take a while to make, and nothing else runs meanwhile; so the characters that begin
# them are counted. Those in texts count, too: so many are far more than a prompt has.
_BEGINNINGS = (b"[", b"{", b":")
_MAX_BEGINNINGS = 131_072
# By pydantic's kinds of errors, with what they bring. Words of our own alone go on the wire.
_REASONS = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "extra_forbidden": "this server does not know this field",
    "float_type": "must be a number",
    "greater_than_equal": "must be at least {ge}",
    "int_type": "must be a whole number",
    "less_than": "must be below {lt}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is required",
    "model_type": "must be an object",
    "string_type": "must be a text",
    "too_long": "must have at most {max_length} items",
    "value_error": "{error}",  # of a check here
}
_OTHER_REASON = "has no such value"
_PLACE = re.compile(r"at line \d+ column \d+")

Uint32 = Annotated[int, Field(ge=0, lt=2**32)]
# The first bad item of a list says it all, and so does the first too many; there may be millions.
_FEW = Field(fail_fast=True, max_length=MAX_BATCH_ITEMS)
Texts = Annotated[list[str], _FEW]
Ids = Annotated[list[Uint32], Field(fail_fast=True)]
Schema = dict[str, Any] | str | bool
T = TypeVar("T", bound="Common")


def _at_most(given: Any, most: int) -> Any:
    if isinstance(given, dict) and len(given) > most:
        raise ValueError(f"at most {most} are allowed, not {len(given)}")
    return given


class _Strict(BaseModel):
    """What is not known is refused, and nothing is taken for what it is not."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, given: Any) -> Any:
        """Pydantic makes an error of each unknown field, and a body has room for half a million."""
        return _at_most(given, _MAX_FIELDS)


Bias = Annotated[dict[str, float], BeforeValidator(lambda given: _at_most(given, MAX_LOGIT_BIAS))]


class StreamOptions(_Strict):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Literal[False] | None = None


class JsonSchema(_Strict):
    name: str | None = None
    description: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(_Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(_Strict):
    json_: Annotated[Schema | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Texts | None = None
    json_object: bool | None = None


class Common(_Strict):
    """Fields of both endpoints; null is unset."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Uint32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: Uint32 | None = None
    stop: str | Texts | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Bias | None = None
    response_format: ResponseFormat | None = None
    # vLLM's
    top_k: Annotated[int, Field(ge=-1, lt=2**32)] | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    min_tokens: Uint32 | None = None
    stop_token_ids: Ids | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    truncate_prompt_tokens: Uint32 | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    guided_json: Schema | None = None
    guided_regex: str | None = None
    guided_choice: Texts | None = None
    structured_outputs: StructuredOutputs | None = None
    # our contract's
    time_limit_ms: Uint32 | None = None


class CompletionFields(Common):
    """The body of /v1/completions."""

    prompt: str | Texts | Ids | Annotated[list[Ids], _FEW]
    echo: bool | None = None
    logprobs: Uint32 | None = None


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class Message(_Strict):
    role: str
    content: str | Annotated[list[TextPart], _FEW]


class ChatFields(Common):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(fail_fast=True, max_length=MAX_CHAT_MESSAGES)]
    max_completion_tokens: Uint32 | None = None
    logprobs: bool | None = None
    top_logprobs: Uint32 | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


def read_fields(kind: type[T], body: bytes) -> T:
    """The body's fields. InvalidRequest with every one that is wrong, or that this server does not have."""
    if sum(map(body.count, _BEGINNINGS)) > _MAX_BEGINNINGS:
        reason = f"has more than {_MAX_BEGINNINGS} brackets, braces and colons"
        raise InvalidRequest(Violation("body", reason))
    try:
        given = from_json(body, allow_inf_nan=False)
    except ValueError as exc:
        place = _PLACE.search(str(exc))
        raise InvalidRequest(Violation("body", f"is no JSON {place[0] if place else ''}")) from exc
    if not isinstance(given, dict):
        raise InvalidRequest(Violation("body", "must be a JSON object"))
    refused = [
        Violation(name, "this server does not support it")
        for name, neutral in REFUSED.items()
        if not _asks_nothing(given.get(name), neutral)
    ]
    known = {
        name: value for name, value in given.items() if name not in REFUSED and name not in _LABELS
    }
    try:
        fields = kind.model_validate(known)
    except ValidationError as exc:
        wrong: dict[str, dict[str, None]] = {}  # reasons in order, each once
        for error in exc.errors(include_url=False, include_input=False):
            wrong.setdefault(_path(error["loc"]), {})[_reason(error)] = None
        refused += [Violation(field, ", or ".join(reasons)) for field, reasons in wrong.items()]
    if refused:
        raise InvalidRequest(*refused[:_MAX_REASONS])
    return fields


def _asks_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    # True is 1 and 1.0 to Python, but not to a reader.
    return value is None or any(value == one and type(value) is type(one) for one in neutral)


def _path(loc: tuple[int | str, ...]) -> str:
    """As the caller wrote it: further down pydantic's paths name the kinds it tried."""
    name = str(loc[0])[:_MAX_NAME] if loc else "body"
    match loc:
        case ("messages", int(position), *rest):
            field = f".{rest[0]}" if rest else ""
            return f"{name}[{position}]{field}"
        case _:
            return name


def _reason(error: Any) -> str:
    reason = _REASONS.get(error["type"], _OTHER_REASON)
    return reason.format_map(error.get("ctx", {}))
