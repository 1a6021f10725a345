"""Logging: configured by the command line alone; one event for each request that ends. Never prompts."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol

from . import caller
from .errors import PacelineError
from .glimpse import SHOWN_OF_ID, Ended
from .job import Job
from .request import Finish, Timings

requests = logging.getLogger("paceline.requests")

_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def configure(level: str, style: str = "text") -> None:
    """Sends everything of at least `level` to standard error, as `text` or as one object of `json` a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def configured() -> tuple[str, str]:
    """What another process gives to `configure` to log as this one does."""
    root = logging.getLogger()
    in_json = any(isinstance(handler.formatter, JsonFormatter) for handler in root.handlers)
    return logging.getLevelName(root.getEffectiveLevel()), "json" if in_json else "text"


class Event(dict[str, object]):
    """A log message that is made of fields."""

    def __str__(self) -> str:
        return fields(self)


class JsonFormatter(logging.Formatter):
    """One line of JSON for each record; an `Event`'s fields stand beside time, level, logger and process."""

    def format(self, record: logging.LogRecord) -> str:
        time_s = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": time_s,
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
        }
        if isinstance(record.msg, Event):
            line |= {"event": "request"} | record.msg
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def fields(values: dict[str, object]) -> str:
    """`key=value` pairs; values with spaces or quotes are quoted, so that a line always parses."""
    return " ".join(f"{key}={_value(value)}" for key, value in values.items())


class Running(Protocol):
    """A job on its way: how its completions ended, so far."""

    @property
    def finishes(self) -> list[Finish]: ...


class RequestRecord:
    """Surrounds one request and logs its end, whichever way it comes.

    Args:
        answered: told the status, and the word for why it was refused, if it was.
        ended: told what became of a request that had a job.
    """

    def __init__(
        self,
        rpc: str,
        peer: str,
        answered: Callable[[str, str], None],
        ended: Callable[[Ended], None] | None = None,
    ) -> None:
        self.status = "OK"
        self.job: Job | None = None
        self.running: Running | None = None
        self.trace: Callable[[], str] | None = None  # called at the end; gives the trace's id
        self.rpc = rpc
        self.begun = time.monotonic()
        self._peer = peer
        self._answered = answered
        self._ended = ended

    def __enter__(self) -> RequestRecord:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.status = self._status(exc)
        self._answered(self.status, exc.refusal if isinstance(exc, PacelineError) else "")
        if self._ended is not None and self.job is not None:
            self._ended(self._summary(self.job))
        trace_id = None if self.trace is None else self.trace()
        if requests.isEnabledFor(logging.INFO):
            requests.info(self._event(trace_id))

    @property
    def finishes(self) -> list[Finish]:
        """How its completions ended; those that a caller left are missing."""
        return [] if self.running is None else self.running.finishes

    def _status(self, exc: BaseException | None) -> str:
        status = _status(exc)
        late = self.job is not None and self.job.request.late(time.monotonic())
        # gRPC cancels what is late, often before the engine ends it.
        return "DEADLINE_EXCEEDED" if late and status == "CANCELLED" else status

    def _event(self, trace_id: str | None) -> Event:
        values = Event(rpc=self.rpc, status=self.status, peer=self._peer)
        if (who := caller.current.get()) is not None:
            values["caller"] = who.name
        if self.job is not None:
            values["id"] = self.job.request.id
            values["prompt_tokens"] = len(self.job.request.prompt_ids)
        if trace_id is not None:
            values["trace_id"] = trace_id
        if finishes := self.finishes:
            first = finishes[0].timings
            values["finish"] = ",".join(finish.reason.value for finish in finishes)
            values["output_tokens"] = sum(f.usage.completion_tokens for f in finishes)
            values["queue_ms"] = round(first.queue_s * 1e3, 1)
            values["ttft_ms"] = round(first.ttft_s * 1e3, 1)
        values["total_ms"] = round((time.monotonic() - self.begun) * 1e3, 1)
        return values

    def _summary(self, job: Job) -> Ended:
        finishes = self.finishes
        first = finishes[0].timings if finishes else Timings()
        return Ended(
            id=job.request.id[:SHOWN_OF_ID],
            at_s=time.time(),
            status=self.status,
            finish=",".join(finish.reason.value for finish in finishes),
            prompt_tokens=len(job.request.prompt_ids),
            output_tokens=sum(f.usage.completion_tokens for f in finishes),
            cached_tokens=max((f.usage.cached_tokens for f in finishes), default=0),
            queue_s=first.queue_s,
            ttft_s=first.ttft_s,
            tpot_s=(finishes[0].tpot_s if finishes else None) or 0.0,
            total_s=time.monotonic() - self.begun,
            rows=first.batch_rows_mean,
            preemptions=sum(f.timings.preemptions for f in finishes),
        )


def _status(exc: BaseException | None) -> str:
    match exc:
        case None:
            return "OK"
        case PacelineError():
            return exc.status
        case asyncio.CancelledError() | GeneratorExit():
            return "CANCELLED"
        case _:
            return "INTERNAL"


def _value(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(letter in ' "=' for letter in text)
    return text if plain else json.dumps(text)
