"""Constraints are compiled beside the engine, so that nobody waits for those of others."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from .errors import EngineFailure, FeatureUnavailable, PacelineError
from .inbox import Compiled
from .request import Constraint, Request

if TYPE_CHECKING:
    from .guidance import Guide, Guides

logger = logging.getLogger(__name__)


class Compiler:
    """Compiles one constraint after the other, on a thread of its own.

    Args:
        guides: of the engine's model, if that has any.
        wanted: whether a request still waits for its guide; asked on that thread, and may know late.
        done: told what became of each that was wanted; on that thread.
    """

    def __init__(
        self,
        guides: Guides | None,
        wanted: Callable[[Request], bool],
        done: Callable[[Compiled], None],
    ) -> None:
        self._guides = guides
        self._wanted = wanted
        self._done = done
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="paceline-constraint")

    @property
    def guided(self) -> bool:
        return self._guides is not None

    def known(self, constraint: Constraint) -> Guide | None:
        """The guide, if it was compiled lately. Any thread. FeatureUnavailable where nothing can be compiled."""
        if self._guides is None:
            raise FeatureUnavailable("this server has no guided decoding")
        return self._guides.known(constraint)

    def begin(self, request: Request) -> None:
        """Compiles the constraint of a request, for which `known` had nothing."""
        opened = self._pool.submit(self._open, request)
        opened.add_done_callback(lambda found: self._tell(request, found))

    def close(self) -> None:
        """Leaves what has not begun, and tells nobody of it."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, request: Request) -> Guide | None:
        assert self._guides is not None and request.constraint is not None
        # Who has left is counted in no queue any more: their constraints could pile up here without end.
        return self._guides.open(request.constraint) if self._wanted(request) else None

    def _tell(self, request: Request, opened: Future[Guide | None]) -> None:
        if not opened.cancelled() and (found := _result(opened)) is not None:
            self._done(Compiled(request, found))


def _result(opened: Future[Guide | None]) -> Guide | PacelineError | None:
    error = opened.exception()
    if error is None:
        return opened.result()
    if isinstance(error, PacelineError):
        return error
    failure = EngineFailure(uuid.uuid4().hex[:12])
    logger.error("compiling a constraint failed error_id=%s", failure.error_id, exc_info=error)
    return failure
