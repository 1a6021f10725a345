"""What an OpenAI-compatible server is asked: path and JSON body of one prompt. Pure."""

from __future__ import annotations

from typing import Any

from paceline.loadgen.prompt import Prompt
from paceline.loadgen.wire import WireError

# vLLM then says in each message how many tokens there are so far; servers that do not know it say it at the end.
STREAM_OPTIONS = {"include_usage": True, "continuous_usage_stats": True}


# What OpenAI's own API knows of what a prompt may ask for.
OWN = {"model", "max_tokens", "temperature", "seed", "stream", "stream_options", "stop", "top_p"}


def path_and_body(
    prompt: Prompt, model: str, *, chat: bool, strict: bool = False
) -> tuple[str, dict[str, Any]]:
    """Below the base URL: /completions, or /chat/completions for conversations and where `chat` says so.

    `ignore_eos`, `top_k`, `min_p`, `min_tokens` and `priority` are vLLM's and llama.cpp's own names; what a prompt
    does not use is not sent, nor any of them where it is to be `strict`. WireError where token ids are to be a chat.
    """
    body: dict[str, Any] = {"model": model} if model else {}
    body |= {
        "max_tokens": prompt.max_tokens,
        "temperature": prompt.temperature,
        "seed": prompt.seed,
        "stream": True,
        "stream_options": STREAM_OPTIONS,
    }
    if prompt.ignore_eos:
        body["ignore_eos"] = True
    if prompt.priority:
        body["priority"] = prompt.priority
    body |= dict(prompt.options)
    if strict:
        body = {name: value for name, value in body.items() if name in OWN}
        body["stream_options"] = {"include_usage": True}
    if prompt.messages is not None:
        said = [{"role": role, "content": content} for role, content in prompt.messages]
        return "/chat/completions", body | {"messages": said}
    if not chat:
        given = prompt.text or "" if prompt.prompt_ids is None else list(prompt.prompt_ids)
        return "/completions", body | {"prompt": given}
    if prompt.prompt_ids is not None:
        raise WireError("INVALID_ARGUMENT", "token ids cannot be sent to /chat/completions")
    return "/chat/completions", body | {
        "messages": [{"role": "user", "content": prompt.text or ""}]
    }
