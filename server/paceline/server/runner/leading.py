"""Rank 0 of a model that is spread over several: the engine's `Runner`, which has the others do the same."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from ..bare_step import BareStep
from ..config import EngineConfig, ModelConfig
from ..devices import under_torchrun
from ..loader import Loaded
from ..runner_port import WrappedRunner
from ..step import Sampled, Step
from .followers import Followers, end_group
from .ranks import End, Heal, Order, Place, RankConfig, Ranks, WarmUp
from .shards import Part, check

logger = logging.getLogger(__name__)

_REASON_S = 1.0  # until a step counts as failed: if another rank died, its death is the reason, and ends this process


def load_leader(model: ModelConfig, engine: EngineConfig) -> Loaded:
    """Starts the other ranks, unless torchrun has, and loads with them. SetupError if that cannot be."""
    config = RankConfig.of(model, engine)
    check(config)
    if under_torchrun():
        return _lead(Part.load(config, Place.of_torchrun(config.tensor_parallel)), None)
    followers = Followers(config)
    try:
        part = Part.load(config, followers.place())
    except BaseException:
        followers.close()
        raise
    followers.computing = True
    return _lead(part, followers)


def _lead(part: Part, followers: Followers | None) -> Loaded:
    runner = LeadingRunner(part, followers)
    return Loaded(runner, part.loaded.tokenizer, part.loaded.num_threads)


class LeadingRunner(WrappedRunner):
    """Tells every step to the other ranks and computes its own part of it. Tokens are chosen here alone.

    All ranks compute all steps in the same order, or none: where one fails in the middle, its sums with the others
    are lost, so the group ends.
    """

    def __init__(self, part: Part, followers: Followers | None) -> None:
        super().__init__(part.runner)
        device = part.loaded.device.type
        self.info = replace(part.runner.info, device=f"{device} x {part.ranks.place.size}")
        self._ranks: Ranks | None = part.ranks
        self._followers = followers

    def warm_up(self) -> None:
        self._tell(WarmUp())
        super().warm_up()

    def launch(self, step: Step) -> object:
        bare = BareStep.of(step)
        try:
            self._tell(bare)
            return step, super().launch(step)
        except Exception:
            time.sleep(_REASON_S)
            logger.critical("a step failed on one of several ranks", exc_info=True)
            end_group()

    def collect(self, handle: object) -> Sampled:
        assert isinstance(handle, tuple)
        step: Step
        step, inner = handle
        sampled = super().collect(inner)
        sick = [
            page
            for row, token in zip(step.sampling_rows, sampled.token_ids, strict=True)
            if token < 0
            for page in row.pages
        ]
        if sick:  # this rank's are healed
            self._tell(Heal(tuple(sick)))
        return sampled

    def close(self) -> None:
        """Ends the other ranks. A second call does nothing."""
        if self._followers is not None:
            self._followers.release()
        if self._ranks is not None:
            self._tell(End())
            super().close()
            self._ranks.close()
            self._ranks = None
        if self._followers is not None:
            self._followers.close()

    def _tell(self, order: Order) -> None:
        assert self._ranks is not None
        self._ranks.tell(order)
