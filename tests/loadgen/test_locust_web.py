"""The load generator's web UI and its command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from loadgen.conftest import ScriptedServer, quiet_environment

LOCUSTFILE = Path(__file__).parents[2] / "loadgen" / "locustfile.py"
LOCUST = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE)]
PATIENCE_S = 20.0


class WebUI:
    """Locust's HTTP interface."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def post(self, path: str, form: str = "") -> dict[str, Any]:
        request = urllib.request.Request(self.url + path, form.encode(), method="POST")
        with urllib.request.urlopen(request, timeout=5) as answer:
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
    command = [*LOCUST, "--web-host", "127.0.0.1", "--web-port", str(port), *options]
    with subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=quiet_environment()
    ) as process:
        try:
            yield WebUI(port)
        finally:
            process.terminate()


def requests_made(stats: dict[str, Any]) -> int:
    return sum(row["num_requests"] for row in stats["stats"] if row["name"] == "chat")


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


def test_web_ui_runs_levels(server: ScriptedServer, free_port: int) -> None:
    """With --concurrency the start button runs the sweep, each level a row of its own."""
    levels = ("--concurrency", "1,3", "--level-min-s", "0.2", "--level-requests", "5")
    with web_ui(free_port, "--target", server.target, *levels) as ui:
        ui.until(lambda stats: stats["state"] == "ready")
        ui.post("/swarm")
        stats = ui.until(lambda stats: stats["state"] == "stopped")
        names = [row["name"] for row in stats["stats"]]
        assert names == ["chat/1", "chat/3", "Aggregated"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--workload", "nonsense"), "neither a preset"),
        (("--concurrency", "1,zero"), "not a list like 1,2,4"),
        (("--concurrency", "0"), "at least 1"),
        (("--level-max-s", "nan"), "not a number of at least"),
        (("--channels", "0"), "not a number of at least"),
    ],
)
def test_bad_options(arguments: tuple[str, ...], complaint: str) -> None:
    """A bad value ends the command with one line that names it, and exit code 2."""
    done = subprocess.run(
        [*LOCUST, "--headless", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
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
        command, capture_output=True, text=True, timeout=30, env=quiet_environment()
    )
    assert done.returncode == 2
    assert "records of an earlier run" in done.stderr
    assert (tmp_path / "requests.0.jsonl").read_text() == "kept"
