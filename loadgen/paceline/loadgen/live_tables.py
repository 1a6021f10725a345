"""The live figures as tables: the web UI's tabs, the terminal's lines, CSV files. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paceline.loadgen.live import Level, Live
from paceline.loadgen.live_figures import ENDS, Figures
from paceline.loadgen.outcomes import outcome
from paceline.loadgen.timing import Record
from paceline.loadgen.wording import NONE, number, percent, rate, seconds

Row = dict[str, Any]

FIGURE_COLUMNS = {
    "measure": "Measure",
    "now": "Last 10 s",
    "level": "Level so far",
    "p90": "Level p90",
    "p99": "Level p99",
    "meaning": "What it says",
}
LEVEL_COLUMNS = {
    "level": "Level",
    "state": "State",
    "requests": "Requests",
    "tok": "tok/s",
    "ttft50": "TTFT p50",
    "ttft99": "TTFT p99",
    "tpot50": "TPOT p50",
    "itl99": "ITL p99",
    "delay99": "Send delay p99",
    "good": "Within SLO",
    "shed": "Shed",
    "failed": "Failed",
    "cut": "Cut",
}
LATENCY_ROWS = (
    ("ttft", "TTFT, median", "time to first token"),
    ("tpot", "TPOT, median", "time per output token after the first, one value a request"),
    ("itl", "ITL, median", "inter-token latency: every gap that a reader saw"),
    ("e2e", "Request, median", "from the send to the status"),
    ("delay", "Send delay, median", "how late the generator sent, against its schedule"),
)


def figure_rows(live: Live, now_s: float) -> list[Row]:
    """The tab's table: latencies, load and server. Every row has all of `FIGURE_COLUMNS`, as text."""
    recent, span_s = live.recent()
    level = live.levels.get(live.level) or Level(live.level)
    rows = [*_latency_rows(recent, level.figures), *_load_rows(live, level, recent, span_s, now_s)]
    rows += _server_rows(live.server())
    # Locust sorts rows by `name` unless told otherwise.
    return [{"name": f"{place:02d}", **row} for place, row in enumerate(rows)]


def _latency_rows(recent: Figures, level: Figures) -> list[Row]:
    return [
        _row(
            label,
            seconds(recent.latencies[name].quantile(0.5)),
            seconds(level.latencies[name].quantile(0.5)),
            meaning,
            p90=seconds(level.latencies[name].quantile(0.9)),
            p99=seconds(level.latencies[name].quantile(0.99)),
        )
        for name, label, meaning in LATENCY_ROWS
        if name != "delay" or level.latencies[name].count
    ]


def _load_rows(
    live: Live, level: Level, recent: Figures, span_s: float, now_s: float
) -> Iterable[Row]:
    figures = level.figures
    good = recent.counts["good"] / span_s if span_s else None
    yield _row("Output", _unit(rate(live.tok_s()), "tok/s"), _unit(rate(level.tok_s), "tok/s"),
               "tokens a second that arrived")  # fmt: skip
    yield _row("In flight", str(live.in_flight(now_s)), level.name and f"of {level.name}",
               "requests sent and not ended")  # fmt: skip
    if live.slo:
        yield _row("Goodput", _unit(number(good, 1), "req/s"), "",
                   f"requests a second that met {live.slo}")  # fmt: skip
        yield _row("Within SLO", percent(recent.attainment), percent(figures.attainment),
                   "share that met it; shed and failed ones did not")  # fmt: skip
    for end, meaning in (
        ("ok", "ended well"),
        ("shed", "refused by the server's full queue"),
        ("failed", "any other status than OK"),
        ("cut", "in flight when the level or the run ended: no fault of anybody"),
        ("missed_deadline", "its own deadline passed first"),
        ("cancelled_by_plan", "left early, as the workload planned"),
        ("dropped", "not sent: too many outstanding, or too late"),
    ):
        if end not in RARE or figures.counts[end]:
            yield _row(
                end.replace("_", " ").capitalize(),
                str(recent.counts[end]),
                str(figures.counts[end]),
                meaning,
            )


def _server_rows(server: Mapping[str, float | None]) -> Iterable[Row]:
    if not server:
        yield _row("Server", NONE, "", "it does not tell its load")
        return
    yield _row("Server running", number(server["running"]), "", "requests in its batch now")
    yield _row(
        "Server queue", number(server["waiting"]), "", "requests that wait to join the batch"
    )
    yield _row("Batch rows", number(server["rows"], 1), "", "mean rows that shared a step")
    yield _row("KV cache", percent(server["kv"]), "", "pages in use")
    yield _row(
        "Padding waste",
        percent(server["padding"]),
        "",
        "share of the computed tokens that were padding",
    )


def _row(measure: str, now: str, level: str, meaning: str, *, p90: str = "", p99: str = "") -> Row:
    values = (measure, now, level, p90, p99, meaning)
    return dict(zip(FIGURE_COLUMNS, values, strict=True))


def _unit(text: str, unit: str) -> str:
    return text if text == NONE else f"{text}\u00a0{unit}"


def level_rows(live: Live) -> list[Row]:
    """One row a level, in the order in which they ran; every row has all of `LEVEL_COLUMNS`, as text."""
    return [
        {"name": f"{place:03d}", **_level_row(level, running=level.name == live.level)}
        for place, level in enumerate(live.levels.values())
    ]


def _level_row(level: Level, *, running: bool) -> Row:
    figures, counts = level.figures, level.figures.counts
    quantile = {name: histogram.quantile for name, histogram in figures.latencies.items()}
    values = (
        level.name,
        "now" if running else "done",
        number(figures.ended),
        rate(level.tok_s),
        seconds(quantile["ttft"](0.5)),
        seconds(quantile["ttft"](0.99)),
        seconds(quantile["tpot"](0.5)),
        seconds(quantile["itl"](0.99)),
        seconds(quantile["delay"](0.99)),
        percent(figures.attainment),
        *(str(counts[end]) for end in ("shed", "failed", "cut")),
    )
    return dict(zip(LEVEL_COLUMNS, values, strict=True))


RARE = ("missed_deadline", "cancelled_by_plan", "dropped")  # shown where there are any
LEVELS_CSV = (
    *("level", "first_s", "last_s", "tokens", "tok_s", *ENDS),
    *("slo_judged", "slo_good"),
    *(f"{name}_p{p}_ms" for name in ("ttft", "tpot", "itl", "e2e", "delay") for p in (50, 90, 99)),
)
SECONDS_CSV = (
    *("time_s", "in_flight", "tokens", *ENDS, "ttft_p50_ms"),
    *("tpot_p50_ms", "server_running", "server_waiting", "server_pages_used", "server_pages_total"),
    *("server_step_rows", "server_step_padded_rows", "server_output_tokens"),
)
REQUESTS_CSV = (
    *("id", "mode", "level", "rate", "kind", "phase", "worker", "t_int_s", "t_send_s", "t_end_s"),
    *(
        "status",
        "end",
        "prompt_tokens",
        "requested_tokens",
        "tokens",
        "finish",
        "ttft_ms",
        "tpot_ms",
    ),
    *("itl_max_ms", "e2e_ms", "dispatch_delay_ms", "server_queue_ms", "server_prefill_ms"),
    *("server_decode_ms", "batch_rows_mean"),
)


def levels_csv(live: Live) -> str:
    """One line a level. Seconds count from the run's begin; an unknown value is an empty field."""
    return _csv(LEVELS_CSV, (_level_values(live, level) for level in live.levels.values()))


def _level_values(live: Live, level: Level) -> list[Any]:
    figures, counts = level.figures, level.figures.counts
    span = (max(0.0, level.first_s - live.began_s), level.last_s - live.began_s)
    ends = (counts[name] for name in (*ENDS, "judged", "good"))
    return [
        level.name,
        *(round(value, 3) for value in span),
        figures.tokens,
        level.tok_s and round(level.tok_s, 3),
        *ends,
        *(_ms(h.quantile(p)) for h in figures.latencies.values() for p in (0.5, 0.9, 0.99)),
    ]


def seconds_csv(live: Live) -> str:
    """One line a second of the last ten minutes, client and server side by side."""
    return _csv(SECONDS_CSV, (_second_values(place, live) for place in live.slots))


def _second_values(place: int, live: Live) -> list[Any]:
    slot = live.slots[place]
    figures, sample = slot.figures, slot.sample or {}
    names = (name.removeprefix("server_") for name in SECONDS_CSV if name.startswith("server_"))
    return [
        place,
        sum(slot.in_flight.values()) if slot.in_flight else None,
        figures.tokens,
        *(figures.counts[end] for end in ENDS),
        *(_ms(figures.latencies[name].quantile(0.5)) for name in ("ttft", "tpot")),
        *(sample.get(name) for name in names),
    ]


def requests_csv(records: Sequence[Record]) -> str:
    """One line a generation. Times are seconds of the generator's `perf_counter`."""
    return _csv(REQUESTS_CSV, ([*_request_values(one, outcome(one))] for one in records))


def _request_values(record: Record, end: str) -> Iterable[Any]:
    server = record.server
    yield from (record.id, record.mode, record.level, record.rate, record.kind, record.phase)
    yield from (record.worker, record.t_int, record.t_send, record.t_end, record.status, end)
    yield from (record.prompt_tokens, record.requested_tokens, record.counted_tokens, record.finish)
    latencies = (
        record.ttft_s,
        record.tpot_s,
        record.stall_s,
        record.e2e_s,
        record.dispatch_delay_s,
    )
    yield from map(_ms, latencies)
    if server is not None:
        yield from (server.queue_ms, server.prefill_ms, server.decode_ms, server.batch_rows_mean)
    else:
        yield from (None,) * 4


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else round(value_s * 1e3, 3)


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
