"""How the mock's engine is made to die or to hang, to try what becomes of its requests: by prompts that ask for it."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from .sequence import Sequence
from .step import Step

logger = logging.getLogger(__name__)

_EXIT_CODE = 70


class Faults:
    """An `on_step` for prompts like `{"crash": 3}` and `{"hang": 0}`: at their token of this number, from 0 on.

    Args:
        opening: the token of `{`; prompts that begin with another one are not looked at.
        decode: the text of a prompt.
    """

    def __init__(self, opening: int, decode: Callable[[list[int]], str]) -> None:
        self._opening = opening
        self._decode = decode

    def __call__(self, step: Step) -> None:
        for row in step.sampling_rows:
            if row.sequence.tokens[0] == self._opening:
                self._obey(row.sequence)

    def _obey(self, sequence: Sequence) -> None:
        script = _script(self._decode(list(sequence.request.prompt_ids)))
        if script.get("crash") == sequence.num_output:
            logger.warning("a prompt asks the engine to crash")
            os._exit(_EXIT_CODE)  # as native code does: no exception, no last word
        if script.get("hang") == sequence.num_output:
            logger.warning("a prompt asks the engine to hang")
            while True:
                time.sleep(1.0)


def _script(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
