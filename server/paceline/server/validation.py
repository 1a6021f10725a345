"""Checks messages field by field and turns them into domain values; all violations are reported together."""

from __future__ import annotations

import itertools
import re
import secrets
import uuid
from collections.abc import Sequence

from paceline.v1 import generation_pb2 as pb

from .errors import FeatureUnavailable, InvalidRequest, Violation
from .job import Conversation, Draft, Limits, Prompt, ResponseOptions
from .request import Constraint, SamplingParams, StoppingParams

MAX_COMPLETIONS = 64
MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_STOP_TOKENS = 64
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
MAX_CHOICES = 1000
MAX_CONSTRAINT_BYTES = 32_768
# A mask inside a long literal or regular expression takes time in proportion to its length.
MAX_PATTERN_BYTES = 4096
MAX_REQUEST_ID = 128
MAX_BATCH_ITEMS = 1024
MAX_CHAT_MESSAGES = 4096
# Below it, logits divided by the temperature leave the range of a 32-bit float.
MIN_TEMPERATURE = 1e-5
MAX_TEMPERATURE = 100.0
_ROLE = re.compile(r"[A-Za-z][\w.-]{0,63}")
# One message never needs more: the rest of a long list of bad ids says nothing new.
_MAX_VIOLATIONS = 16


class Checks:
    """Collects violations under a path, which is written as in the contract."""

    def __init__(self, path: str, violations: list[Violation] | None = None) -> None:
        self._path = path
        self.violations: list[Violation] = [] if violations is None else violations

    def under(self, field: str) -> Checks:
        """The same collection, for the fields of a nested message."""
        return Checks(self.path(field), self.violations)

    def path(self, field: str) -> str:
        return f"{self._path}.{field}" if self._path else field

    def require(self, valid: bool, field: str, description: str) -> None:
        if not valid and len(self.violations) < _MAX_VIOLATIONS:
            self.violations.append(Violation(self.path(field), description))

    def between(self, value: float, low: float, high: float, field: str) -> None:
        """Requires a finite number in [low, high]."""
        inside = low <= _decimal(value) <= high  # false for NaN too
        self.require(inside, field, f"must be from {low:g} to {high:g}, not {_shown(value)}")

    def at_most(self, count: int, high: int, field: str) -> None:
        self.require(count <= high, field, f"at most {high} are allowed, not {count}")

    def token_ids(self, ids: Sequence[int], vocab_size: int, field: str) -> None:
        # Millions fit in a message, and the event loop waits: look at each only if one is wrong.
        if max(ids, default=0) < vocab_size:
            return
        for position, token in enumerate(ids):
            self.require(
                token < vocab_size,
                f"{field}[{position}]",
                f"token id {token} is out of range; the vocabulary has {vocab_size}",
            )

    def finish(self) -> None:
        """Raises InvalidRequest if anything was violated."""
        if self.violations:
            raise InvalidRequest(*self.violations)


def _decimal(value: float) -> float:
    """The number the caller wrote: 0.01 travels as a 32-bit float, which is a little less."""
    return float(f"{value:.6g}")


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def check_generation(message: pb.Generation, limits: Limits) -> Draft:
    """A draft of the generation.

    Raises:
        InvalidRequest: with every field that is wrong.
        FeatureUnavailable: nothing is wrong, but this server cannot do it.
    """
    checks = Checks("generation")
    n = message.sampling.n if message.sampling.HasField("n") else 1
    prompt, prompt_field = _prompt(message, limits, checks)
    _request_id(message.request_id, checks)
    checks.between(message.priority, -100, 100, "priority")
    stopping = _stopping(message.stopping, limits, checks.under("stopping"))
    draft = Draft(
        request_id=message.request_id or uuid.uuid4().hex,
        prompt=prompt,
        prompt_field=prompt_field,
        sampling=_sampling(message.sampling, limits, checks.under("sampling")),
        stopping=stopping,
        response=_response(message.response, checks.under("response")),
        stop=tuple(message.stopping.stop),
        include_stop=message.stopping.include_stop,
        n=n,
        priority=message.priority,
        time_limit_s=message.time_limit_ms / 1e3 if message.time_limit_ms else None,
        truncate_prompt_tokens=message.truncate_prompt_tokens,
        constraint=_constraint(message, checks),
    )
    checks.finish()
    _features(message, limits)
    return draft


def check_prompt(
    message: pb.Generation | pb.TokenizeRequest, limits: Limits, checks: Checks
) -> tuple[Prompt, str]:
    """The input of a message that has `text`, `chat` and perhaps `token_ids`, and its path."""
    match message.WhichOneof("input"):
        case "text":
            return message.text, checks.path("text")
        case "chat":
            return _chat(message.chat, checks.under("chat")), checks.path("chat")
        case "token_ids" if isinstance(message, pb.Generation):
            ids = message.token_ids.ids
            checks.token_ids(ids, limits.vocab_size, "token_ids.ids")
            return tuple(ids), checks.path("token_ids")
    checks.require(False, "input", "is required")
    return "", checks.path("input")


def _prompt(message: pb.Generation, limits: Limits, checks: Checks) -> tuple[Prompt, str]:
    prompt, field = check_prompt(message, limits, checks)
    kind = message.WhichOneof("input")
    # Special tokens may make an empty text a prompt of one token, but nobody asks for that.
    if kind is not None and not isinstance(prompt, Conversation):
        checks.require(bool(prompt), kind, "the prompt is empty")
    return prompt, field


def _chat(chat: pb.Chat, checks: Checks) -> Conversation:
    checks.require(bool(chat.messages), "messages", "a chat needs at least one message")
    checks.at_most(len(chat.messages), MAX_CHAT_MESSAGES, "messages")
    # Here and below: a message may hold millions, and the event loop waits; those over the bound are not looked at.
    for position, message in enumerate(chat.messages[:MAX_CHAT_MESSAGES]):
        checks.require(
            _ROLE.fullmatch(message.role) is not None,
            f"messages[{position}].role",
            "must be a name like system, user or assistant",
        )
    allowed = chat.messages[:MAX_CHAT_MESSAGES]
    messages = tuple((message.role, message.content) for message in allowed)
    return Conversation(messages, chat.continue_final_message)


def _request_id(request_id: str, checks: Checks) -> None:
    length = len(request_id)
    checks.require(
        length <= MAX_REQUEST_ID,
        "request_id",
        f"at most {MAX_REQUEST_ID} characters are allowed, not {length}",
    )
    checks.require(request_id.isprintable(), "request_id", "must be printable")


def _sampling(message: pb.Sampling, limits: Limits, checks: Checks) -> SamplingParams:
    temperature = message.temperature if message.HasField("temperature") else 1.0
    checks.require(
        temperature == 0.0 or MIN_TEMPERATURE <= _decimal(temperature) <= MAX_TEMPERATURE,
        "temperature",
        f"must be 0 (greedy) or from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}, not {temperature:g}",
    )
    top_p = message.top_p if message.HasField("top_p") else 1.0
    checks.require(0.0 < top_p <= 1.0, "top_p", f"must be above 0 and at most 1, not {top_p:g}")
    checks.between(message.min_p, 0.0, 1.0, "min_p")
    repetition = message.repetition_penalty if message.HasField("repetition_penalty") else 1.0
    checks.between(repetition, 0.01, 100.0, "repetition_penalty")
    checks.between(message.presence_penalty, -2.0, 2.0, "presence_penalty")
    checks.between(message.frequency_penalty, -2.0, 2.0, "frequency_penalty")
    most = min(MAX_COMPLETIONS, limits.max_queue_requests)
    checks.between(message.n if message.HasField("n") else 1, 1, most, "n")
    _logit_bias(message, limits, checks)
    return SamplingParams(
        temperature=temperature,
        top_k=message.top_k if message.top_k < limits.vocab_size else 0,
        top_p=top_p,
        min_p=message.min_p,
        repetition_penalty=repetition,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=tuple(sorted(message.logit_bias.items())),
        seed=message.seed if message.HasField("seed") else secrets.randbits(63),
    )


def _logit_bias(message: pb.Sampling, limits: Limits, checks: Checks) -> None:
    checks.at_most(len(message.logit_bias), MAX_LOGIT_BIAS, "logit_bias")
    for token, bias in itertools.islice(message.logit_bias.items(), MAX_LOGIT_BIAS):
        field = f"logit_bias[{token}]"
        checks.require(
            token < limits.vocab_size,
            field,
            f"token id {token} is out of range; the vocabulary has {limits.vocab_size}",
        )
        checks.between(bias, -100.0, 100.0, field)


def _stopping(message: pb.Stopping, limits: Limits, checks: Checks) -> StoppingParams:
    max_tokens = limits.default_max_tokens
    if message.HasField("max_tokens"):
        max_tokens = message.max_tokens
        checks.require(max_tokens >= 1, "max_tokens", "must be at least 1")
    checks.require(
        message.min_tokens <= max_tokens,
        "min_tokens",
        f"must be at most max_tokens ({max_tokens}), not {message.min_tokens}",
    )
    checks.at_most(len(message.stop), MAX_STOPS, "stop")
    for position, stop in enumerate(message.stop[:MAX_STOPS]):
        _size(stop, MAX_STOP_BYTES, f"stop[{position}]", checks)
    checks.at_most(len(message.stop_token_ids), MAX_STOP_TOKENS, "stop_token_ids")
    checks.token_ids(message.stop_token_ids, limits.vocab_size, "stop_token_ids")
    return StoppingParams(
        # The context ends a completion anyway, so a larger number means the same.
        max_tokens=min(max_tokens, limits.max_context),
        min_tokens=message.min_tokens,
        eos_token_ids=frozenset() if message.ignore_eos else limits.eos_token_ids,
        stop_token_ids=frozenset(message.stop_token_ids),
    )


def _response(message: pb.ResponseOptions, checks: Checks) -> ResponseOptions:
    logprobs = message.logprobs if message.HasField("logprobs") else None
    checks.between(logprobs or 0, 0, MAX_LOGPROBS, "logprobs")
    checks.between(message.prompt_logprobs, 0, MAX_LOGPROBS, "prompt_logprobs")
    return ResponseOptions(
        text=message.text if message.HasField("text") else True,
        token_ids=message.token_ids,
        logprobs=logprobs,
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else None,
        echo=message.echo,
        skip_special=skip_special(message),
    )


def skip_special(message: pb.ResponseOptions | pb.DetokenizeRequest) -> bool:
    return message.skip_special_tokens if message.HasField("skip_special_tokens") else True


def _constraint(message: pb.Generation, checks: Checks) -> Constraint | None:
    """Its sizes alone are checked: whether it can be followed, `guidance` knows."""
    if not message.HasField("constraint"):
        return None
    under = checks.under("constraint")
    texts: tuple[str, ...]
    kind = message.constraint.WhichOneof("kind")
    match kind:
        case None:
            under.require(False, "kind", "is required")
            return None
        case "choice":
            texts = tuple(message.constraint.choice.options)
            field = "choice.options"
            count = f"1 to {MAX_CHOICES} are allowed, not {len(texts)}"
            under.require(1 <= len(texts) <= MAX_CHOICES, field, count)
            for position, text in enumerate(texts):
                _size(text, MAX_PATTERN_BYTES, f"{field}[{position}]", under)
            total = sum(len(text.encode()) for text in texts)
            too_long = f"at most {MAX_CONSTRAINT_BYTES} bytes are allowed, not {total}"
            under.require(total <= MAX_CONSTRAINT_BYTES, field, too_long)
        case _:
            texts = (getattr(message.constraint, kind),)
            most = MAX_PATTERN_BYTES if kind == "regex" else MAX_CONSTRAINT_BYTES
            _size(texts[0], most, kind, under)
    return Constraint(kind, texts)


def _size(text: str, most: int, field: str, checks: Checks) -> None:
    size = len(text.encode())
    checks.require(1 <= size <= most, field, f"must have 1 to {most} bytes, not {size}")


def _features(message: pb.Generation, limits: Limits) -> None:
    if message.HasField("constraint") and not limits.guided:
        raise FeatureUnavailable("this server has no guided decoding")
    require_chat(message, limits)


def require_chat(message: pb.Generation | pb.TokenizeRequest, limits: Limits) -> None:
    """FeatureUnavailable for a chat where the model has no template for it."""
    if message.HasField("chat") and not limits.has_chat_template:
        raise FeatureUnavailable("this model has no chat template; send text or token ids")
