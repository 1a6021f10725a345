"""Guided decoding by llguidance: constraints to guides, which know the tokens that may come next.

A guide lives beside its sequence on the host, so whoever loses its pages and is computed again keeps it.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from .errors import InvalidRequest, Violation
from .request import Constraint
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions  # a name of its types alone

_KEPT = 64  # compiled constraints: most callers send the same few
_MAX_REASON = 200
# Each mask under a repeat takes time in proportion to its count, which none of the limits below sees.
_MAX_REPEATS = 2000
_REPEATS = re.compile(r"\{(?:\d*,)?(\d+),?\}")
# About a tenth of what the library allows: no mask may keep a step waiting for long. Past them a constraint is refused,
# or where that shows only later, its completion ends.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,
    step_lexer_fuel=50_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    verbose_errors=False,  # they hold what was generated
)
# One way to write a value: with free whitespace a model may go on writing blanks for ever.
_JSON: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


class Guide:
    """Follows one completion. Belongs to the engine's thread."""

    def __init__(self, matcher: LLMatcher, ends: frozenset[int], words: int) -> None:
        self.ends = ends  # the model's end-of-sequence tokens
        self._matcher = matcher
        self._words = words

    @property
    def problem(self) -> str | None:
        """Why no token can follow; None while all is well."""
        return _one_line(self._matcher.get_error()) if self._matcher.is_error() else None

    def copy(self) -> Guide:
        return Guide(self._matcher.deep_copy(), self.ends, self._words)

    def accept(self, token: int) -> None:
        """Takes in the completion's next token."""
        if token not in self.ends:
            self._matcher.consume_token(token)

    def mask(self, held_back: Collection[int] = ()) -> NDArray[np.uint32]:
        """Which tokens may come next: bit `i % 32` of word `i // 32` for token i of the model's vocabulary.

        Tokens that are `held_back` may not, unless nothing else may. No bit is set where there is a `problem`.
        """
        mask = np.zeros(self._words, dtype=np.uint32)
        found = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32)[: self._words]
        if self._matcher.is_error():
            return mask
        mask[: len(found)] = found
        without = mask.copy() if held_back else mask
        for token in held_back:
            if token // 32 < self._words:
                without[token // 32] &= ~np.uint32(1 << token % 32)
        return without if without.any() else mask


class Guides:
    """Makes guides for one model. Any thread.

    Args:
        tokenizer: one of the `tokenizers` library.
        vocab_size: logits of the model.
        ends: its end-of-sequence tokens, at least one.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, ends: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._ends = frozenset(ends)
        self._lock = threading.Lock()
        self._compiled: OrderedDict[Constraint, Guide] = OrderedDict()

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocab_size: int, ends: Iterable[int]) -> Guides | None:
        """None where a completion cannot be guided: no fast tokenizer, or no token to end it with."""
        usable = [token for token in ends if token < vocab_size]
        return cls(tokenizer, vocab_size, usable) if usable and tokenizer.fast else None

    def prepare(self) -> None:
        """Reads the vocabulary now, which takes some tenths of a second, not with the first constraint."""
        with self._lock:
            self._vocabulary  # noqa: B018  # cached

    def check(self, constraint: Constraint) -> None:
        """InvalidRequest, under the constraint's path, where it is wrong or takes too much to follow."""
        self.open(constraint)

    def open(self, constraint: Constraint) -> Guide:
        """A guide at its beginning. Raises what `check` does."""
        if (known := self.known(constraint)) is not None:
            return known
        with self._lock:
            vocabulary = self._vocabulary
        guide = self._compile(constraint, vocabulary)
        with self._lock:
            self._compiled[constraint] = guide.copy()
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return guide

    def known(self, constraint: Constraint) -> Guide | None:
        """What `open` gives, if it has nothing to compile."""
        with self._lock:
            if (guide := self._compiled.get(constraint)) is None:
                return None
            self._compiled.move_to_end(constraint)
            return guide.copy()

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        size = max(self._vocab_size, self._tokenizer.vocab_size)
        return LLTokenizer(self._tokenizer.serialised(), n_vocab=size, eos_token=[*self._ends])

    def _compile(self, constraint: Constraint, vocabulary: LLTokenizer) -> Guide:
        try:
            grammar = _grammar(constraint)
        except (ValueError, RecursionError) as exc:
            raise _refusal(constraint, str(exc)) from exc
        matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=_LIMITS)
        guide = Guide(matcher, self._ends, -(-self._vocab_size // 32))
        # Some constraints show only here that they are too much.
        empty = not guide.mask().any()
        if (problem := guide.problem) is not None or empty:
            raise _refusal(constraint, problem or "the model has no token to begin with")
        return guide


def _grammar(constraint: Constraint) -> str:
    """ValueError where a schema is no JSON, or none that the library knows, or a repeat is too large."""
    texts = constraint.texts
    if constraint.kind != "choice":
        for repeat in _REPEATS.finditer(texts[0]):
            if len(repeat[1]) > 9 or int(repeat[1]) > _MAX_REPEATS:
                raise ValueError(
                    f"at most {_MAX_REPEATS} repeats are allowed, not {repeat[0][:40]}"
                )
    match constraint.kind:
        case "choice":
            return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, texts)))
        case "regex":
            return LLMatcher.grammar_from_regex(texts[0])
        case "json_schema":
            schema = texts[0].strip()
            if schema == "false":  # it cannot take the defaults
                raise ValueError("no JSON is an instance of false")
            schema = "{}" if schema == "true" else schema
            return LLMatcher.grammar_from_json_schema(schema, defaults=_JSON)


def _refusal(constraint: Constraint, text: str) -> InvalidRequest:
    return InvalidRequest(Violation(f"generation.constraint.{constraint.kind}", _one_line(text)))


def _one_line(text: str) -> str:
    """The library's reason without the pictures around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (reasons or lines or ["refused"])[0][:_MAX_REASON]
