"""Text to token ids and back. The only module that knows transformers' tokenizers; they are imported when loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .errors import SetupError

# Role and content of each message, oldest first.
Messages = Sequence[tuple[str, str]]
_IMPORTING = threading.Lock()
_GENERIC = "TokenizersBackend"  # transformers' class around the tokenizers library


class ChatTemplateError(Exception):
    """The model's chat template refuses this conversation; the text says why and is fit for the caller."""


@dataclass(frozen=True, slots=True)
class TokenDetails:
    """Token ids with the text of each and where it begins and ends in the input, in characters."""

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]


class HuggingFaceTokenizer(Protocol):
    """The part of transformers' tokenizers that is used here."""

    chat_template: Any
    eos_token_id: int | None

    def __len__(self) -> int: ...
    def __call__(self, text: str, **options: Any) -> Any: ...
    def decode(self, token_ids: list[int], **options: Any) -> Any: ...
    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...
    def save_pretrained(self, save_directory: str) -> Any: ...


class Tokenizer:
    """Encodes prompts exactly as `transformers` would, and decodes without tidying up spaces.

    Safe to use from several threads: nothing in it changes after construction.
    """

    def __init__(self, inner: HuggingFaceTokenizer) -> None:
        self._inner = inner
        # The Rust tokenizer below transformers' class decodes about ten times faster.
        self._fast: Any = getattr(inner, "backend_tokenizer", None)
        self.special_ids = frozenset(self._special_ids())

    @property
    def vocab_size(self) -> int:
        """Ids this tokenizer knows, added tokens included; the model's own vocabulary may be larger."""
        return len(self._inner)

    @property
    def generic(self) -> bool:
        """Whether `load(…, generic=True)` gives the same: no code of its own, only a tokenizer.json."""
        return type(self._inner).__name__ == _GENERIC

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        eos = self._inner.eos_token_id
        return () if eos is None else (eos,)

    @property
    def has_chat_template(self) -> bool:
        return bool(self._inner.chat_template)

    @property
    def fast(self) -> bool:
        """Whether it is one of the `tokenizers` library."""
        return self._fast is not None

    def serialised(self) -> str:
        """A fast tokenizer as that library's JSON."""
        text: str = self._fast.to_str()
        return text

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files; `load` reads them, wherever the tokenizer came from."""
        self._inner.save_pretrained(str(folder))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`, never truncated."""
        encoded = self._inner(text, add_special_tokens=add_special_tokens, verbose=False)
        ids: list[int] = encoded["input_ids"]
        return ids

    def encode_chat(self, messages: Messages, continue_final_message: bool = False) -> list[int]:
        """Token ids of a conversation, ending where the assistant's answer begins (or goes on).

        Raises ChatTemplateError where the template refuses the messages.
        """
        conversation = [{"role": role, "content": content} for role, content in messages]
        try:
            text = self._inner.apply_chat_template(
                conversation,
                tokenize=False,
                add_generation_prompt=not continue_final_message,
                continue_final_message=continue_final_message,
            )
        except Exception as exc:  # templates are the model's own programs and raise what they like
            raise ChatTemplateError(_said_by_template(exc)) from exc
        # Templates write their special tokens themselves.
        return self.encode(text, add_special_tokens=False)

    def details(self, text: str, add_special_tokens: bool = True) -> TokenDetails:
        """Token ids with their texts and offsets; tokens the tokenizer adds have an empty span."""
        encoded = self._inner(
            text, add_special_tokens=add_special_tokens, return_offsets_mapping=True, verbose=False
        )
        ids: list[int] = encoded["input_ids"]
        offsets = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
        return TokenDetails(ids, [self.token_text(token) for token in ids], offsets)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of these ids; ids outside the vocabulary have none."""
        if self._fast is not None:
            text: str = self._fast.decode(list(ids), skip_special_tokens=skip_special)
            return text
        slow: str = self._inner.decode(
            list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
        )
        return slow

    def token_text(self, token: int) -> str:
        """One token by itself; bytes that are no whole character show as U+FFFD."""
        return self.decode((token,), skip_special=False)

    def _special_ids(self) -> Iterable[int]:
        if self._fast is None:
            return getattr(self._inner, "all_special_ids", ())
        added = self._fast.get_added_tokens_decoder()
        return (token for token, added_token in added.items() if added_token.special)


def prepare() -> None:
    """Imports what `load` needs, which takes a second or two."""
    _class("AutoTokenizer")


def load(
    source: str | Path, trust_remote_code: bool = False, *, generic: bool = False
) -> Tokenizer:
    """The tokenizer of a folder, a GGUF file or a hub name. SetupError where there is none.

    Args:
        trust_remote_code: run a tokenizer's own Python code; unset, one that has some is refused.
        generic: the folder is known to have a `generic` one. Finding that out takes seconds: transformers
            loads the model's configuration class for it, and most of torch with that.
    """
    path = Path(source)
    try:
        if generic:
            inner = _class(_GENERIC).from_pretrained(str(source))
        elif path.suffix == ".gguf" and path.is_file():
            inner = _class("AutoTokenizer").from_pretrained(str(path.parent), gguf_file=path.name)
        else:
            inner = _class("AutoTokenizer").from_pretrained(
                str(source), trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError) as exc:
        raise own_code(str(source), exc) or SetupError(
            f"no tokenizer in {str(source)!r}: {_one_line(exc)}"
        ) from exc
    return Tokenizer(inner)


def _class(name: str) -> Any:
    """A class of transformers, one thread at a time: while it is imported it is not yet itself in `sys.modules`."""
    with _IMPORTING:
        import transformers

        return getattr(transformers, name)


def own_code(name: str, exc: Exception) -> SetupError | None:
    """The line for an error of transformers that a model's own Python code was not to be run."""
    if "trust_remote_code" not in str(exc):
        return None
    return SetupError(
        f"model {name!r} brings Python code of its own: refused; say --trust-remote-code if you trust it"
    )


def _said_by_template(exc: Exception) -> str:
    """What a template says by its `raise_exception`, which is meant for callers; other errors are not."""
    if type(exc).__name__ == "TemplateError":  # jinja2's; its subclasses are a template's faults
        return _one_line(exc)
    return "the model's chat template cannot render this"


def _one_line(exc: Exception) -> str:
    first = str(exc).strip().splitlines() or [type(exc).__name__]
    return first[0][:200]
