"""The workloads that need no file, by name. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paceline.loadgen.conversation import TURNS, Conversations
from paceline.loadgen.lengths import (
    Lengths,
    code_lengths,
    conversation_lengths,
    even_lengths,
    sharegpt_lengths,
)
from paceline.loadgen.listed import notebook
from paceline.loadgen.prompt import WorkloadError
from paceline.loadgen.scale import Scale
from paceline.loadgen.shared_prefix import GROUPS, PREFIX_TOKENS, SharedPrefix
from paceline.loadgen.source import Source
from paceline.loadgen.synthetic import SizeClass, Synthetic
from paceline.loadgen.traits import Traits, WithTraits

CONVERSATIONS = "Azure conversations 2023, "
BURSTS = "gamma:0.25"
CANCEL_SHARE = 0.2
DEADLINES_S = (0.5, 10.0)

Words = Sequence[str]


@dataclass(frozen=True, slots=True)
class Preset:
    """How a name with its words after colons becomes a workload. `make` raises ValueError for words it cannot use."""

    usage: str
    make: Callable[[Words, Scale], Source]


def preset(spec: str, scale: Scale) -> Source | None:
    """The workload of `name` or `name:WORD:WORD`; None where no preset has the name. Raises WorkloadError."""
    name, *words = spec.split(":")
    chosen = PRESETS.get(name)
    if chosen is None:
        return None
    try:
        return chosen.make(words, scale)
    except WorkloadError as error:
        raise WorkloadError(f"{spec!r}: {error}") from None
    except ValueError:
        raise WorkloadError(f"{spec!r}: write {chosen.usage}") from None


def _traced(
    name: str, origin: str, lengths: Callable[[], Lengths], arrival: str = ""
) -> Callable[[Words, Scale], Source]:
    def make(words: Words, scale: Scale) -> Source:
        _none(words)
        return Synthetic.scaled(name, origin, (SizeClass(lengths()),), scale, arrival)

    return make


def _mixed(words: Words, scale: Scale) -> Source:
    """Nine short requests to one long: does the long one hold up the others?"""
    _none(words)
    long = SizeClass(even_lengths(256, 128), 0.1, "long")
    short = SizeClass(even_lengths(32, 24), 0.9, "short")
    return Synthetic.scaled("mixed", "", (long, short), scale)


def _fixed(words: Words, scale: Scale) -> Source:
    """Told lengths are not made to fit: a server that cannot take them is to say so."""
    if not words:
        return Synthetic.scaled("fixed", "", (SizeClass(even_lengths(64, 64)),), scale)
    if len(words) not in (2, 3):
        raise ValueError
    prompt_tokens, output_tokens = (_at_least_one(word) for word in words[:2])
    spread = _share(words[2].lstrip("±")) if words[2:] else 0.0
    lengths = even_lengths(prompt_tokens, output_tokens, spread).scaled(scale.length)
    return Synthetic("fixed", "", (SizeClass(lengths),), scale)


def _shared_prefix(words: Words, scale: Scale) -> Source:
    if not words:
        return SharedPrefix.scaled(GROUPS, PREFIX_TOKENS, scale, fitted=True)
    groups, prefix_tokens = (_at_least_one(word) for word in words)
    if groups > 10_000:
        raise WorkloadError("at most 10000 groups")
    return SharedPrefix.scaled(groups, prefix_tokens, scale, fitted=False)


def _multi_turn(words: Words, scale: Scale) -> Source:
    turns = _at_least_one(words[0]) if words else TURNS
    if list(words[1:]) not in ([], ["chat"]) or turns > 100:
        raise ValueError
    return Conversations.scaled(turns, scale, chat=bool(words[1:]))


def _cancel(words: Words, scale: Scale) -> Source:
    (share,) = (_share(word) for word in words or [str(CANCEL_SHARE)])
    return WithTraits(_chat("cancel", scale), Traits(cancel_share=share), scale.seed)


def _deadline(words: Words, scale: Scale) -> Source:
    low, high = (float(word) for word in words) if words else DEADLINES_S
    if not 0 < low <= high < 1e6:
        raise ValueError
    return WithTraits(_chat("deadline", scale), Traits(deadline_s=(low, high)), scale.seed)


def _notebook(words: Words, _scale: Scale) -> Source:
    _none(words)
    return notebook()


def _chat(name: str, scale: Scale) -> Source:
    return Synthetic.scaled(name, CONVERSATIONS, (SizeClass(conversation_lengths()),), scale)


def _none(words: Words) -> None:
    if words:
        raise ValueError


def _at_least_one(word: str) -> int:
    if (number := int(word)) < 1:
        raise WorkloadError("every number must be at least 1")
    return number


def _share(word: str) -> float:
    """`0.2` or `20%`, from 0 to 1."""
    share = float(word[:-1]) / 100 if word.endswith("%") else float(word)
    if not 0 <= share <= 1:
        raise WorkloadError(f"{word} is not a share from 0 to 1")
    return share


PRESETS = {
    "chat": Preset("chat", _traced("chat", CONVERSATIONS, conversation_lengths)),
    "code": Preset("code", _traced("code", "Azure code completions 2023, ", code_lengths)),
    "sharegpt": Preset(
        "sharegpt", _traced("sharegpt", "ShareGPT lengths, log-normal, ", sharegpt_lengths)
    ),
    "burst": Preset(
        "burst",
        _traced("burst", f"{CONVERSATIONS}for {BURSTS} arrivals, ", conversation_lengths, BURSTS),
    ),
    "mixed": Preset("mixed", _mixed),
    "fixed": Preset("fixed:PROMPT_TOKENS:OUTPUT_TOKENS or fixed:PROMPT:OUTPUT:±0.2", _fixed),
    "shared-prefix": Preset("shared-prefix:GROUPS:PREFIX_TOKENS", _shared_prefix),
    "multi-turn": Preset("multi-turn:TURNS or multi-turn:TURNS:chat", _multi_turn),
    "cancel": Preset("cancel:SHARE", _cancel),
    "deadline": Preset("deadline:SHORTEST_S:LONGEST_S", _deadline),
    "notebook": Preset("notebook", _notebook),
}
NAMES = tuple(PRESETS)
