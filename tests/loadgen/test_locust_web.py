"""The load generator's web UI and its command line."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadgen.browser import browser, tables_of, visit
from loadgen.conftest import ScriptedServer, quiet_environment

LOCUSTFILE = Path(__file__).parents[2] / "loadgen" / "locustfile.py"
LOCUST = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE)]
PATIENCE_S = 60.0


class WebUI:
    """Locust's HTTP interface."""

    def __init__(self, port: int, pid: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.pid = pid

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def post(self, path: str, form: str = "") -> dict[str, Any]:
        request = urllib.request.Request(self.url + path, form.encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/stats/requests"))
        return found

    def until(self, ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The statistics as soon as they satisfy `ready`."""
        last: object = None
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                last = stats = self.stats()
                if ready(stats):
                    return stats
            except OSError as error:  # not listening yet
                last = error
            time.sleep(0.1)
        raise AssertionError(f"not within {PATIENCE_S} s: {last}")


@contextmanager
def web_ui(port: int, *options: str) -> Iterator[WebUI]:
    """`locust -f loadgen/locustfile.py` with its page on this port, ended by its process id."""
    command = [*LOCUST, "--web-port", str(port), *options]
    with subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=quiet_environment()
    ) as process:
        try:
            yield WebUI(port, process.pid)
        finally:
            process.terminate()


def requests_made(stats: dict[str, Any], name: str = "chat") -> int:
    return sum(row["num_requests"] for row in stats["stats"] if row["name"] == name)


def test_web_ui_starts_and_stops_a_test(server: ScriptedServer, free_port: int) -> None:
    """Without arguments the page is served with our fields; a test starts and stops from it, twice."""
    with web_ui(free_port) as ui:
        ui.until(lambda stats: stats["state"] == "ready")
        page = ui.get("/")
        assert "127.0.0.1:50051" in page and "workload" in page and "JSON-lines file" in page
        for users in (2, 3):
            started = ui.post("/swarm", f"user_count={users}&spawn_rate=10&host={server.target}")
            assert started["success"]
            stats = ui.until(lambda stats: requests_made(stats) >= 20)
            assert stats["user_count"] <= users and stats["fail_ratio"] == 0
            ui.post("/stop")
            stats = ui.until(lambda stats: stats["state"] == "stopped")
            assert stats["fail_ratio"] == 0


def test_only_this_machine_reaches_the_page(free_port: int) -> None:
    """Unless --web-host says otherwise the page listens on 127.0.0.1 alone."""
    with web_ui(free_port) as ui:
        ui.until(lambda stats: stats["state"] == "ready")
        listening = {
            each.laddr.ip
            for each in psutil.Process(ui.pid).net_connections("tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr.port == free_port
        }

    assert listening == {"127.0.0.1"}


def test_web_ui_runs_levels(server: ScriptedServer, free_port: int) -> None:
    """With --concurrency the start button runs the sweep, each level a row of its own."""
    levels = ("--concurrency", "1,3", "--level-min-s", "0.2", "--level-requests", "5")
    with web_ui(free_port, "--target", server.target, *levels) as ui:
        ui.until(lambda stats: stats["state"] == "ready")
        ui.post("/swarm")
        stats = ui.until(lambda stats: stats["state"] == "stopped")
        names = [row["name"] for row in stats["stats"]]
        assert names == ["chat/1", "chat/3", "Aggregated"]


def figures(ui: WebUI, key: str = "paceline") -> dict[str, dict[str, str]]:
    """The rows of one of our tables by their first column."""
    for table in ui.stats()["extended_stats"]:
        if table["key"] == key:
            return {row.get("measure") or row["level"]: row for row in table["data"]}
    raise AssertionError(f"no table {key}")


def until_ended(ui: WebUI, count: int) -> list[dict[str, str]]:
    """The lines of the levels' CSV as soon as so many requests ended well or were cut."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        rows = list(csv.DictReader(io.StringIO(ui.get("/paceline/levels.csv"))))
        if sum(int(row["ok"]) + int(row["cut"]) for row in rows) >= count:
            return rows
        time.sleep(0.2)
    raise AssertionError(f"not {count} requests within {PATIENCE_S} s: {rows}")


@pytest.mark.browser
def test_our_tab_and_page(server: ScriptedServer, free_port: int, tmp_path: Path) -> None:
    """Form, tab and live page in a real browser: fields open, figures of client and server, no console errors."""
    if browser() is None:
        pytest.skip("no Chromium here")
    with web_ui(free_port, "--target", server.target, "--out", str(tmp_path / "out")) as ui:
        ui.until(lambda stats: stats["state"] == "ready")
        form = visit(ui.url + "/", tmp_path)
        assert form.console == []
        assert 'name="slo"' in form.dom and 'name="workload"' in form.dom
        opened = re.search(r'<button[^>]*aria-expanded="true"[^>]*>.{0,200}', form.dom)
        assert opened is not None and "Custom parameters" in opened[0]

        refused = ui.post("/swarm", "user_count=3&spawn_rate=10&slo=ttft")
        assert not refused["success"] and "is no SLO" in refused["message"]
        assert ui.stats()["state"] == "ready"
        assert ui.post("/swarm", "user_count=3&spawn_rate=10&rate=0&slo=ttft%3D500%2Ctpot%3D50")[
            "success"
        ]
        (level,) = until_ended(ui, 20)
        assert level["level"] == "3" and float(level["ttft_p50_ms"]) >= 19.8

        tab = visit(ui.url + "/?tab=paceline", tmp_path)
        assert tab.console == []
        cells = {row[0]: row for row in tables_of(tab.dom)[0]}
        assert cells["TTFT, median"][1].endswith("ms") and cells["Server running"][1] != "–"
        assert 'id="paceline-charts"' in tab.dom
        page = visit(ui.url + "/paceline", tmp_path)
        assert page.console == []
        drawn = set(re.findall(r'class="line" data-key="(\w+)"', page.dom))
        assert drawn >= {"tok_s", "ttft_p50", "tpot_p50", "in_flight", "running", "waiting"}
        assert "SLO ttft=500,tpot=50" in page.dom
        assert not re.search(r"https?://(?!www\.w3\.org)", page.dom)

        ui.post("/stop")
        stats = ui.until(lambda stats: stats["state"] == "stopped")
        assert [row["name"] for row in stats["stats"]] == ["chat", "Aggregated"]
        requests = list(csv.DictReader(io.StringIO(ui.get("/paceline/requests.csv"))))
        assert {row["level"] for row in requests} == {"3"}
        ended = [row for row in requests if row["end"] == "ok"]
        assert len(ended) == stats["stats"][0]["num_requests"]
        assert all(float(row["ttft_ms"]) >= 20 for row in ended)
        assert ui.get("/paceline/seconds.csv").startswith("time_s,in_flight,tokens,")


def test_workers_are_merged(own_server: ScriptedServer, free_port: int, master_port: int) -> None:
    """With two processes the master's tab has the requests, tokens and in flight of both."""
    port = ("--master-bind-port", str(master_port), "--master-port", str(master_port))
    with web_ui(free_port, "--target", own_server.target, "--processes", "2", *port) as ui:
        ui.until(lambda stats: stats["state"] == "ready" and stats.get("worker_count") == 2)
        assert ui.post("/swarm", "user_count=4&spawn_rate=10&workload=fixed%3A20%3A30")["success"]
        until_ended(ui, 60)
        assert figures(ui)["In flight"]["now"] == "4"
        ui.post("/stop")
        ui.until(lambda stats: stats["state"] == "stopped")
        load = own_server.until_idle()
        streams = load.requests_finished + load.requests_rejected
        (level,) = until_ended(ui, streams)
        ok, cut = int(level["ok"]), int(level["cut"])
        assert level["level"] == "4" and ok + cut == streams and cut <= 4
        assert 30 * ok <= int(level["tokens"]) <= 30 * streams
        ui.until(lambda stats: requests_made(stats, "fixed") == ok)


def test_headless_run_tells_its_level_and_writes_html(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """Locust's table gives way to a line a level; `--html` and the summary at the end are there as ever."""
    page = tmp_path / "report.html"
    options = ("--target", server.target, "--users", "2", "--run-time", "4s", "--html", str(page))
    done = subprocess.run(
        [*LOCUST, "--headless", *options],
        capture_output=True,
        text=True,
        timeout=100,
        env=quiet_environment(),
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("level ")]
    assert len(told) == 1 and told[0].startswith("level 2: done, ")
    assert "0 failed" in told[0]
    assert done.stdout.count("Type     Name") + done.stderr.count("Type     Name") == 2
    assert "chat" in page.read_text() and "is_report" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--workload", "nonsense"), "neither a preset"),
        (("--slo", "ttft=fast"), "is no limit"),
    ],
)
def test_bad_options(arguments: tuple[str, ...], complaint: str) -> None:
    """A bad value ends the command with one line that names it, and exit code 2."""
    done = subprocess.run(
        [*LOCUST, "--headless", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env=quiet_environment(),
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert arguments[0] in last and complaint in last


def test_records_are_never_overwritten(tmp_path: Path) -> None:
    """A folder with the records of an earlier run is refused."""
    (tmp_path / "requests.0.jsonl").write_text("kept")
    command = [*LOCUST, "--headless", "--out", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=quiet_environment()
    )
    assert done.returncode == 2
    assert "records of an earlier run" in done.stderr
    assert (tmp_path / "requests.0.jsonl").read_text() == "kept"
