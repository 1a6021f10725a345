"""Text of one completion, made token by token: half characters and half stop strings are held back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .stops import StopSet

_REPLACEMENT = "\ufffd"
# Tokens kept before the window moves on: each move costs one more decode, each push decodes the window.
_WINDOW = 8
# Bytes that never become characters give the window no clean place to move on, and a run of byte tokens that is
# not whole may decode to nothing but replacements: past so many tokens ...
_MAX_WINDOW = 256
# ... only the last characters are held, for UTF-8 misses at most three bytes of a character.
_MAX_INCOMPLETE = 3


class Detokenizer(Protocol):
    """What a text stream needs of a tokenizer."""

    special_ids: frozenset[int]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str: ...


@dataclass(frozen=True, slots=True)
class StopMatch:
    """The stop string that ended a completion, and how many tokens it took to complete it."""

    stop: str
    tokens: int


class TextStream:
    """Turns the tokens of one completion into text, at a constant cost a token.

    The pieces returned by `push` and `finish`, joined, are the decoded completion up to the stop string
    (with it, if `include_stop`). A match counts only if at least `min_tokens` tokens have come by then.
    After a match the stream is deaf: later tokens give no text.
    """

    def __init__(
        self,
        tokenizer: Detokenizer,
        *,
        skip_special: bool = True,
        stops: StopSet | None = None,
        min_tokens: int = 0,
        include_stop: bool = False,
    ) -> None:
        self.tokens = 0
        self.match: StopMatch | None = None
        self._decoder = _IncrementalDecoder(tokenizer, skip_special)
        self._matcher = stops.matcher() if stops else None
        self._min_tokens = min_tokens
        self._include_stop = include_stop
        self._held = ""

    def prime(self, ids: Sequence[int]) -> str:
        """The text of a prompt that the completion continues: not searched, not counted. Before `push`."""
        # In small groups, so that the window stays short.
        groups = (ids[start : start + _WINDOW] for start in range(0, len(ids), _WINDOW))
        return "".join(self._decoder.push(group) for group in groups)

    def push(self, ids: Sequence[int]) -> str:
        """The text that became certain with these tokens."""
        if self._matcher is None:
            self.tokens += len(ids)
            return self._decoder.push(ids)
        # One by one, to know which token completed a match.
        return "".join(self._push_one(token) for token in ids)

    def finish(self) -> str:
        """The text that was held back; call it once, after the last token."""
        if self.match is not None:
            return ""
        rest = self._search(self._decoder.flush())
        held, self._held = self._held, ""
        return rest + held

    def _push_one(self, token: int) -> str:
        if self.match is not None:
            return ""
        self.tokens += 1
        return self._search(self._decoder.push((token,)))

    def _search(self, text: str) -> str:
        """Certain text in, text that no stop string can still claim out."""
        if self._matcher is None or not text:
            return text
        buffer = self._held + text
        position = len(self._held)
        while (hit := self._matcher.feed(buffer[position:])) is not None:
            position += hit.end
            if self.tokens >= self._min_tokens:
                self.match = StopMatch(hit.stop, self.tokens)
                self._held = ""
                return buffer[: position if self._include_stop else position - len(hit.stop)]
        cut = len(buffer) - self._matcher.held
        self._held = buffer[cut:]
        return buffer[:cut]


class _IncrementalDecoder:
    """Decodes a short window of tokens again with each push, and gives out what no later token can change."""

    __slots__ = ("_context", "_given", "_ids", "_skip_special", "_tokenizer")

    def __init__(self, tokenizer: Detokenizer, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._ids: list[int] = []
        self._context = (
            0  # the first so many tokens of the window are there for their neighbours only
        )
        self._given = ""  # the beginning of the window's text that was given out

    def push(self, ids: Sequence[int]) -> str:
        skipped = self._tokenizer.special_ids if self._skip_special else ()
        fresh = [token for token in ids if token not in skipped]
        if not fresh:
            return ""
        self._ids += fresh
        text = self._decode(self._ids)
        if not text.startswith(self._given) and len(self._ids) < _MAX_WINDOW:
            return ""  # a run of byte tokens decodes to nothing but replacements until it is whole
        certain = max(len(self._given), len(text) - self._incomplete(text))
        piece = text[len(self._given) : certain]
        self._given = text[:certain]
        self._move_on(text, clean=certain == len(text))
        return piece

    def flush(self) -> str:
        return self._decode(self._ids)[len(self._given) :]

    def _move_on(self, whole: str, clean: bool) -> None:
        """Keep only the newer tokens: they give the next ones their context (spaces, joined characters)."""
        if len(self._ids) < (_WINDOW if clean else _MAX_WINDOW) + self._context:
            return
        newer = self._ids[self._context :]
        text = self._decode(newer)
        # A context without text would make the next token look like the beginning of a sentence.
        if not text and len(newer) < _MAX_WINDOW:
            return
        # Cut inside a character, byte tokens may decode to other text than they do behind what went before.
        if not whole.endswith(text) and len(newer) < _MAX_WINDOW:
            return
        self._ids = newer
        self._given = text[: len(text) - self._incomplete(text)]
        self._context = len(newer)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special=self._skip_special)

    def _incomplete(self, text: str) -> int:
        """How many of the last characters may still turn into something else."""
        replaced = len(text) - len(text.rstrip(_REPLACEMENT))
        return min(replaced, _MAX_INCOMPLETE) if len(self._ids) >= _MAX_WINDOW else replaced
