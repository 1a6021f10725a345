"""How much a step may hold: less after one ran out of memory, more again when all went well for long."""

from __future__ import annotations

from .config import EngineConfig

_FLOOR = 16  # tokens a step may always hold
_PATIENCE = 1000  # good steps before a bound grows


class StepBounds:
    """The bounds of a step, in tokens and in rows; no more rows than tokens, so each gets one a step."""

    def __init__(self, config: EngineConfig) -> None:
        self._most_rows = config.max_batch_size
        self._most_tokens = max(config.max_step_tokens, config.max_batch_size)
        self.rows = self._most_rows
        self.tokens = self._most_tokens
        self._good_steps = 0
        self._patience = _PATIENCE
        self._grew = False

    def shrink(self) -> bool:
        """Halves the tokens; at their floor, the rows. False when there was nothing left to halve."""
        self._good_steps = 0
        if self._grew:  # too early: were it as early again, a long prompt might never get through
            self._patience *= 2
            self._grew = False
        if self.tokens > _FLOOR:
            self.tokens = max(_FLOOR, self.tokens // 2)
            self.rows = min(self.rows, self.tokens)
            return True
        if self.rows > 1:
            self.rows //= 2
            return True
        return False

    def count_good_step(self) -> None:
        """Notes a step that went well; after many, a bound grows one step."""
        if self.tokens == self._most_tokens and self.rows == self._most_rows:
            return
        self._good_steps += 1
        if self._good_steps < self._patience:
            return
        self._good_steps = 0
        self._grew = True
        if self.rows < min(self._most_rows, self.tokens):
            self.rows = min(2 * self.rows, self._most_rows, self.tokens)
        else:
            self.tokens = min(2 * self.tokens, self._most_tokens)
