"""The user's cache: folders that are made once, by one process at a time, and are there whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".partial-"


def cache_dir() -> Path:
    """`PACELINE_CACHE`, else `paceline` in the user's cache folder."""
    if own := os.environ.get("PACELINE_CACHE"):
        return Path(own).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "paceline"


@contextmanager
def workshop(parent: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """An empty folder in `parent` to make something in, for one process at a time; gone afterwards.

    Args:
        on_wait: called where another process is at work, before this one waits for it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        # The kernel lets go of the lock when its holder dies, however it dies: what lies here is a dead process's.
        for leftover in parent.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def install(made: Path, folder: Path) -> None:
    """Gives a finished folder its name, in place of what had it, once all of it is on the disk."""
    for path in made.iterdir():
        _sync(path)
    _sync(made)
    if folder.exists():
        shutil.rmtree(folder)
    made.replace(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
