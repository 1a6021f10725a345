"""The numbers by which an engine calls the completions of a front end."""

from __future__ import annotations

from ..request import Output
from .messages import Outputs


class Slots:
    """Gives each completion a number that none had before: words about those that are over say nothing."""

    def __init__(self) -> None:
        self._next = 0
        self._taken: dict[int, tuple[str, int]] = {}  # request id and index of what runs

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, request_id: str, count: int) -> int:
        """The first of as many slots as the request has completions; the others follow it."""
        first, self._next = self._next, self._next + count
        for index in range(count):
            self._taken[first + index] = (request_id, index)
        return first

    def free(self, first: int, count: int) -> None:
        for slot in range(first, first + count):
            del self._taken[slot]

    def clear(self) -> None:
        self._taken.clear()

    def read(self, step: Outputs) -> tuple[list[Output], list[str]]:
        """What a step brought, and the request of each completion that it ended, whose slot is free."""
        taken = self._taken
        outputs: list[Output] = []
        ended: list[str] = []
        for slot, token in zip(step.slots, step.tokens, strict=True):
            if slot in taken:
                request_id, index = taken[slot]
                outputs.append(Output(request_id, index, (token,)))
        for other in step.others:
            if other.slot not in taken:
                continue
            request_id, index = taken[other.slot]
            outputs.append(
                Output(
                    request_id,
                    index,
                    other.token_ids,
                    other.logprobs,
                    other.finish,
                    other.prompt_logprobs,
                )
            )
            if other.finish is not None:
                del taken[other.slot]
                ended.append(request_id)
        return outputs, ended
