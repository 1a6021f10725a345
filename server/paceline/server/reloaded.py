"""A value read from files, and read again when they change."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from .errors import SetupError

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Modification time, size and inode: a file that was written again or replaced differs in one of them.
_Stamp = tuple[tuple[int, int, int] | None, ...]


class Reloaded(Generic[T]):
    """The latest good value. Any thread may ask.

    Whether the files changed is looked at whenever the value is asked for. A change that is no good, such as a
    file that is half written, is logged once, and the old value stays.

    Args:
        read: makes the value; raises SetupError with one line. Called at once, and then its error is raised.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._lock = threading.Lock()
        self._stamp = _stamp(self._paths)
        self._value = read()

    def get(self) -> T:
        stamp = _stamp(self._paths)
        if stamp != self._stamp:
            with self._lock:
                if stamp != self._stamp:
                    self._reload(stamp)
        return self._value

    def _reload(self, stamp: _Stamp) -> None:
        names = ", ".join(str(path) for path in self._paths)
        try:
            value = self._read()
        except SetupError as exc:
            logger.error("%s; what was read before stays in force", exc)
        else:
            if _stamp(self._paths) != stamp:
                return  # it changed while it was read: the next one who asks reads it again
            logger.info("read again: %s", names)
            self._value = value
        self._stamp = stamp


def _stamp(paths: Sequence[Path]) -> _Stamp:
    return tuple(_stamp_of(path) for path in paths)


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_file(path: Path, flag: str) -> bytes:
    """A file that a flag names. SetupError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise SetupError(f"{flag} {path}: {reason}") from exc
