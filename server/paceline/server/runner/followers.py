"""The processes of the other ranks, as rank 0 starts them: all end with it, and it ends with each."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from concurrent.futures import Future
from typing import NoReturn

import msgspec

from .. import logs
from ..errors import SetupError
from ..interpreter import command, environment
from .rank import StartRank
from .ranks import Place, RankConfig

logger = logging.getLogger(__name__)

_MODULE = "paceline.server.runner.rank"
_GRACE_S = (
    5.0  # for rank 0 to fail by itself, with a better reason, where another one could not load
)
_END_S = 5.0


class Followers:
    """Ranks 1 and up on this machine."""

    def __init__(self, config: RankConfig) -> None:
        # Ranks of one machine need no other address, and nobody else needs theirs.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        self.computing = False  # loading is over
        self._size = config.tensor_parallel
        # They meet in a file without a name, which ends with this process, however that ends.
        self._meeting = os.fdopen(os.memfd_create("paceline-ranks"), "rb")
        self._closing = threading.Event()
        self._config = config.model_dump(mode="json")
        started = [self._start(rank) for rank in range(1, self._size)]
        try:
            self._processes = [future.result() for future in started]
        except OSError as exc:
            raise SetupError(f"no process can be started for a rank: {exc.strerror}") from exc

    def place(self, rank: int = 0) -> Place:
        return Place(
            rank, rank, self._size, f"file:///proc/{os.getpid()}/fd/{self._meeting.fileno()}"
        )

    def release(self) -> None:
        """They may end from now on."""
        self._closing.set()

    def close(self) -> None:
        """Ends what still runs. Idempotent."""
        self.release()
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
        self._meeting.close()

    def _start(self, rank: int) -> Future[subprocess.Popen[bytes]]:
        """On a thread that lives as long as the process: the kernel would end it with the thread that started it."""
        started: Future[subprocess.Popen[bytes]] = Future()
        name = f"paceline-rank-{rank}"
        threading.Thread(target=self._keep, args=(rank, started), name=name, daemon=True).start()
        return started

    def _keep(self, rank: int, started: Future[subprocess.Popen[bytes]]) -> None:
        try:
            process = subprocess.Popen(command(_MODULE), stdin=subprocess.PIPE, env=environment())
        except OSError as exc:
            started.set_exception(exc)
            return
        place = self.place(rank)
        order = StartRank(
            os.getpid(),
            self._config,
            (place.rank, place.local, place.size, place.rendezvous),
            logs.configured(),
        )
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it died already
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            process.stdin.flush()
        started.set_result(process)
        code = process.wait()
        if not self._closing.wait(0.0 if self.computing else _GRACE_S):
            logger.critical("rank %d of %d ended (%d): so do the others", rank, self._size, code)
            end_group(code)


def end_group(code: int = 1) -> NoReturn:
    """Ends this process, and so all ranks, at once: they cannot go on without each other.

    A rank that was killed says that no request is to blame; so this process goes the same way, for its keeper to see.
    """
    logging.shutdown()
    if code == -signal.SIGKILL:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(1)
