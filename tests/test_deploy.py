"""What operators are given: the table of metrics, the dashboard and the alerts name what a real server exposes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mock_serving import generation, serving
from paceline.client import Client
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb
from process_serving import COMMAND, Server, until
from small_tokenizers import byte_level_tokenizer

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
ROW = re.compile(r"^\| `(paceline_\w+)(?:\{(\w+)\})?` \| (\w+) \| .+ \| (.+) \|$", re.MULTILINE)
ENDINGS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}


def exposed() -> list[Any]:
    """The families that a server which answered a call exposes."""

    async def scrape() -> str:
        async with serving(Tokenizer(byte_level_tokenizer()), metrics_port=0) as served:
            await served.stub.Generate(pb.GenerateRequest(generation=generation()))
            url = f"http://127.0.0.1:{served.app.metrics_port}/metrics"
            body: bytes = (await asyncio.to_thread(urlopen, url)).read()
            return body.decode()

    return list(text_string_to_metric_families(asyncio.run(scrape())))


@pytest.fixture(scope="module")
def families() -> list[Any]:
    return exposed()


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/paceline.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """What the dashboard asks of Prometheus."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def test_the_table_of_metrics_is_what_a_server_exposes(families: list[Any]) -> None:
    """docs/operations.md has one line for each metric: its name, label, type, and its own help text."""
    expected = []
    for family in families:
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {key for sample in family.samples for key in sample.labels} - {"le"}
        label = next(iter(labels)) if len(labels) == 1 else ""
        expected.append((name, label, family.type, family.documentation))
    table = ROW.findall((ROOT / "docs/operations.md").read_text())
    assert sorted(table) == sorted(expected)


def test_dashboard_and_alerts_ask_for_metrics_that_exist(families: list[Any]) -> None:
    """Every name in a query is a sample of a real server, with the ending of its type."""
    known = {f.name + end for f in families for end in ENDINGS.get(f.type, ("",))}
    asked = [*queries(), *(alert["expr"] for alert in alerts())]
    names = {name for expr in asked for name in re.findall(r"paceline_\w+", expr)}
    assert len(names) > 20
    assert names - known == set()


def test_the_dashboards_panels_do_not_overlap() -> None:
    """Each panel has its own place and says what it shows."""
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        own = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert panel["description"] and not own & cells and at["x"] + at["w"] <= 24
        cells |= own


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """The address of a real Prometheus that follows our configuration, faster, and scrapes `target`."""
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(DEPLOY / "prometheus/alerts.yml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml"]
    command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def ask(address: str, path: str, **arguments: str) -> Any:
    """What Prometheus' API answers; None while it does not."""
    try:
        with urlopen(f"{address}/api/v1/{path}?{urlencode(arguments)}", timeout=10) as response:
            return json.load(response)["data"]
    except OSError:
        return None


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_a_real_prometheus_answers_the_dashboard(tmp_path: Path) -> None:
    """Each query of the dashboard gives numbers under load, and every alert can be evaluated and is silent."""
    server, over = Server("--mock", program=("-c", COMMAND)), threading.Event()

    def load() -> None:
        with Client(f"127.0.0.1:{server.port}") as client:
            while not over.is_set():
                client.generate("Once upon a time", max_tokens=8)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        with prometheus(tmp_path, f"127.0.0.1:{server.metrics_port}") as address:

            def numbers(query: str) -> list[str]:
                found = ask(address, "query", query=query) or {"result": []}
                return [s["value"][1] for s in found["result"] if s["value"][1] != "NaN"]

            for expr in queries():
                query = expr.replace("$__rate_interval", "20s").replace("$instance", ".*")
                until(partial(numbers, query))
            rules = until(partial(evaluated, address))
    finally:
        over.set()
        thread.join()
        server.close()
    assert {rule["name"]: (rule["health"], rule["state"]) for rule in rules} == {
        alert["alert"]: ("ok", "inactive") for alert in alerts()
    }


def evaluated(address: str) -> list[dict[str, Any]]:
    """The alerts, once Prometheus has looked at all of them."""
    found = ask(address, "rules") or {"groups": []}
    rules = [rule for group in found["groups"] for rule in group["rules"]]
    return [] if any(rule["health"] == "unknown" for rule in rules) else rules


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("check", [("check", "config"), ("test", "rules")])
def test_promtool_accepts_the_configuration(check: tuple[str, str]) -> None:
    """Configuration and rules are valid, and alerts fire when they should."""
    file = {"config": "prometheus.yml", "rules": "alerts_test.yml"}[check[1]]
    command = ["promtool", *check, str(DEPLOY / "prometheus" / file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
