"""One request as the load generator asks for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

USER, ASSISTANT = "user", "assistant"


class WorkloadError(ValueError):
    """The workload cannot be used; the text says why, in one line."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a reader says next in a conversation, and how many tokens the answer has."""

    text: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: text, token ids or chat messages, and how many tokens to make.

    Attributes:
        messages: (role, content) pairs, rendered by the server's chat template.
        options: of the wire format, as a file gave them.
        priority: smaller is served sooner; 0 is ordinary.
        deadline_s: gRPC deadline of this call. None: only the run's time limit holds.
        cancel_after: the reader leaves once so many tokens have come. None: it stays.
        kind: its class in a mix, for figures of its own.
        at_s: when a trace sends it, counted from the start. None: it does not say.
        turns: how the conversation goes on; empty for a single request.
        turn: its place in the conversation, from 1.
    """

    id: str
    text: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    messages: tuple[tuple[str, str], ...] | None = None
    max_tokens: int = 32
    ignore_eos: bool = True
    temperature: float = 0.0
    seed: int = 0
    options: tuple[tuple[str, Any], ...] = ()
    priority: int = 0
    deadline_s: float | None = None
    cancel_after: int | None = None
    kind: str = ""
    at_s: float | None = None
    turns: tuple[Turn, ...] = ()
    turn: int = 1

    @property
    def label(self) -> str:
        """The class that its record gets: `kind`, and its turn where it is part of a conversation."""
        turn = f"turn {self.turn}" if self.turns or self.turn > 1 else ""
        return "/".join(part for part in (self.kind, turn) if part)

    def next_turn(self, answer: str) -> Prompt | None:
        """The request that follows this one's answer: all that was said, and the next turn. None at the end."""
        if not self.turns:
            return None
        said, *later = self.turns
        stem = self.id if self.turn == 1 else self.id.removesuffix(f".t{self.turn}")
        following = replace(
            self,
            id=f"{stem}.t{self.turn + 1}",
            max_tokens=said.max_tokens,
            turns=tuple(later),
            turn=self.turn + 1,
        )
        if self.messages is not None:
            more = ((ASSISTANT, answer), (USER, said.text))
            return replace(following, messages=self.messages + more)
        return replace(following, text=f"{self.text}{answer}\n{said.text}")

    def to_json(self) -> dict[str, Any]:
        """The line of the offline format (`paceline batch`) that asks for the same work.

        What only a running server can be asked for is left out: priority, deadline, cancel, later turns.
        """
        line = {"id": self.id, "max_tokens": self.max_tokens, "ignore_eos": self.ignore_eos}
        line |= {"temperature": self.temperature, "seed": self.seed} | dict(self.options)
        if self.prompt_ids is not None:
            return line | {"prompt_ids": list(self.prompt_ids)}
        if self.messages is not None:
            messages = [{"role": role, "content": content} for role, content in self.messages]
            return line | {"messages": messages}
        return line | {"prompt": self.text}
