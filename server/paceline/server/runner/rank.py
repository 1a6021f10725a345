"""A rank other than the first: a process that computes its part of each step it is told of, and chooses nothing."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from .. import logs
from ..config import ServeConfig
from ..errors import SetupError
from ..processes import count
from ..processes.child import die_with, leave_signals

if TYPE_CHECKING:
    from .ranks import Place, RankConfig

logger = logging.getLogger(__name__)


class StartRank(msgspec.Struct):
    """The one line that rank 0 writes to its standard input; when that ends, so does the process."""

    parent: int
    config: dict[str, Any]
    place: tuple[int, int, int, str]
    log: tuple[str, str]  # as `logs.configure` takes it


def main() -> int:
    """The exit code: 0 when it was told to end."""
    leave_signals()
    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=StartRank)
    die_with(start.parent)
    threading.Thread(target=_end_with_the_first, name="paceline-parent", daemon=True).start()
    logs.configure(*start.log)
    from .ranks import Place, RankConfig

    return follow(RankConfig(**start.config), Place(*start.place))


def follow_torchrun(config: ServeConfig) -> int:
    """The same for a process that torchrun started with the settings of rank 0. SetupError if it may not."""
    count.check(config)
    leave_signals()
    from .ranks import Place, RankConfig

    return follow(RankConfig.of(config, config), Place.of_torchrun(config.tensor_parallel))


def follow(config: RankConfig, place: Place) -> int:
    """Obeys rank 0 until it says that this is the end."""
    from .ranks import End, Heal, WarmUp
    from .shards import Part

    try:
        part = Part.load(config, place)
        while True:
            match part.ranks.hear():
                case End():
                    part.ranks.close()
                    return 0
                case WarmUp():
                    part.runner.warm_up()
                case Heal(pages):
                    part.runner.heal(pages)
                case step:
                    part.runner.compute(step)
    except SetupError as exc:
        logger.critical("rank %d: %s", place.rank, exc)
    except Exception:
        logger.critical("rank %d cannot go on", place.rank, exc_info=True)
    return 1


def _end_with_the_first() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # the others may be gone: nothing here is to wait for them
