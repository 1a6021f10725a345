"""From a file of the offline format to jobs for the engine."""

from __future__ import annotations

import time
from pathlib import Path

from .errors import SetupError
from .job import Job, ResponseOptions
from .offline import Entry, Line, entries
from .request import ModelInfo, Request
from .tokenizer import ChatTemplateError, Tokenizer


def read(path: Path) -> list[Entry]:
    """The requests of a file, bad lines included. SetupError where there are none."""
    try:
        with path.open("rb") as file:
            found = list(entries(file))
    except OSError as exc:
        raise SetupError(f"cannot read {str(path)!r}: {exc.strerror}") from exc
    if not found:
        raise SetupError(f"{str(path)!r} holds no requests")
    return found


def prepare(entry: Entry, tokenizer: Tokenizer, info: ModelInfo) -> Job | str:
    """The entry as the engine takes it, or what is wrong with it."""
    line = entry.request
    if isinstance(line, str):
        return line
    try:
        prompt_ids = _encode(line, tokenizer)
    except ChatTemplateError as exc:
        return f"messages: {exc}"
    if not prompt_ids:
        return "the prompt is empty"
    ids = (*prompt_ids, *line.stop_token_ids, *line.logit_bias)
    if (largest := max(ids)) >= info.vocab_size:
        return f"token id {largest} is out of range; the vocabulary has {info.vocab_size}"
    request = Request(
        id=str(entry.number),
        prompt_ids=tuple(prompt_ids),
        sampling=line.sampling(seed=entry.number),
        stopping=line.stopping(info.eos_token_ids),
        arrival=time.monotonic(),
        constraint=line.constraint(),
    )
    return Job(request, ResponseOptions(), tuple(line.stop))


def _encode(line: Line, tokenizer: Tokenizer) -> list[int]:
    if line.prompt_ids is not None:
        return line.prompt_ids
    if line.prompt is not None:
        return tokenizer.encode(line.prompt)
    if not tokenizer.has_chat_template:
        raise ChatTemplateError("this model has no chat template; give prompt or prompt_ids")
    return tokenizer.encode_chat([(m.role, m.content) for m in line.messages or ()])
