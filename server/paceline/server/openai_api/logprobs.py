"""Log-probabilities in OpenAI's two forms. None for those of no tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paceline.v1 import generation_pb2 as pb


def text_logprobs(
    entries: Sequence[pb.TokenLogprobs], first: str = "", begin: int = 0
) -> dict[str, Any] | None:
    """The lists of /v1/completions.

    Args:
        entries: in order; one that is empty is of the prompt's first token.
        first: that token's text.
        begin: characters before them.
    """
    if not entries:
        return None
    tokens: list[str] = []
    chosen: list[float | None] = []
    top: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for entry in entries:
        known = entry.HasField("chosen")
        token = entry.chosen.token if known else first
        likeliest = {entry.chosen.token: entry.chosen.logprob}
        for one in entry.top:
            likeliest.setdefault(one.token, one.logprob)
        tokens.append(token)
        chosen.append(entry.chosen.logprob if known else None)
        top.append(likeliest if known else None)
        offsets.append(begin)
        begin += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": chosen,
        "top_logprobs": top,
        "text_offset": offsets,
    }


def chat_logprobs(entries: Sequence[pb.TokenLogprobs]) -> dict[str, Any] | None:
    """The list of /v1/chat/completions."""
    if not entries:
        return None
    content = [
        _one(entry.chosen) | {"top_logprobs": [_one(each) for each in entry.top]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _one(entry: pb.TokenLogprob) -> dict[str, Any]:
    # A token that is half a character has bytes that its text does not tell.
    whole = "\ufffd" not in entry.token
    return {
        "token": entry.token,
        "logprob": entry.logprob,
        "bytes": list(entry.token.encode()) if whole else None,
    }
