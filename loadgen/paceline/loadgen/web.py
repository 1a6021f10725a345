"""Paceline in Locust's web UI: two tabs, live charts on a page of their own, CSV files, a form that is checked."""

from __future__ import annotations

from locust.env import Environment
from locust.web import WebUI

import json
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, jsonify, request

from paceline.loadgen.live import Live
from paceline.loadgen.live_series import series
from paceline.loadgen.live_tables import (
    FIGURE_COLUMNS,
    LEVEL_COLUMNS,
    figure_rows,
    level_rows,
    levels_csv,
    requests_csv,
    seconds_csv,
)
from paceline.loadgen.options import check_form
from paceline.loadgen.recorder import read_requests

TAB, LEVELS = "paceline", "paceline-levels"
NO_RECORDS = "Requests are kept where Locust is started with --out DIR.\n"


def use_web(environment: Environment, ui: WebUI, live: Live) -> None:
    """Add what is ours to the web UI, before it answers its first request."""
    assert ui.app is not None
    out = getattr(environment.parsed_options, "out", "")
    ui.template_args["extended_tabs"] = [
        {"title": "Paceline", "key": TAB},
        {"title": "Levels", "key": LEVELS},
    ]
    ui.template_args["extended_tables"] = [
        {"key": TAB, "structure": _structure(FIGURE_COLUMNS)},
        {"key": LEVELS, "structure": _structure(LEVEL_COLUMNS)},
    ]
    ui.template_args["extended_csv_files"] = [
        {"href": "./paceline/levels.csv", "title": "Download Paceline's levels CSV"},
        {"href": "./paceline/seconds.csv", "title": "Download Paceline's seconds CSV"},
    ]
    if out:
        one = {"href": "./paceline/requests.csv", "title": "Download Paceline's requests CSV"}
        ui.template_args["extended_csv_files"].append(one)
    base = getattr(environment.parsed_options, "web_base_path", None)
    ui.app.register_blueprint(_pages(environment, ui, live, out), url_prefix=base)
    ui.app.before_request(_refuse_bad_form)
    ui.app.after_request(lambda answer: _extend(answer, live))


def _structure(columns: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "title": title} for key, title in columns.items()]


def _pages(environment: Environment, ui: WebUI, live: Live, out: str) -> Blueprint:
    """The page, its data, the CSV files; behind the login where there is one."""
    pages = Blueprint("paceline", __name__)

    def add(path: str, view: Any) -> None:
        guarded = ui.auth_required_if_enabled(view)  # type: ignore[no-untyped-call]
        pages.add_url_rule(path, view.__name__, guarded)

    def page() -> str:
        return live_page()

    def data() -> Response:
        state = environment.runner.state if environment.runner is not None else "missing"
        found = series(live, time.perf_counter(), state=state)
        text = json.dumps(found, separators=(",", ":"), allow_nan=False)
        return Response(text, mimetype="application/json", headers={"Cache-Control": "no-store"})

    def levels() -> Response:
        return _csv(levels_csv(live), "levels")

    def seconds() -> Response:
        return _csv(seconds_csv(live), "seconds")

    def requests() -> Response:
        if not out:
            return Response(NO_RECORDS, 404, mimetype="text/plain")
        return _csv(requests_csv(read_requests(Path(out))[1]), "requests")

    add("/paceline", page)
    add("/paceline/data", data)
    add("/paceline/levels.csv", levels)
    add("/paceline/seconds.csv", seconds)
    add("/paceline/requests.csv", requests)
    return pages


def live_page() -> str:
    """The page of live charts with its styles and script inside; it asks nobody but Locust itself."""
    page = _template("live.html")
    for name in ("live.css", "live.js"):
        page = page.replace(f"/* {name} */", _template(name))
    return page


def _template(name: str) -> str:
    return (files("paceline.loadgen") / "templates" / name).read_text(encoding="utf-8")


def _csv(text: str, name: str) -> Response:
    attachment = {"Content-Disposition": f"attachment;filename=paceline_{name}.csv"}
    return Response(text, mimetype="text/csv", headers=attachment)


def _refuse_bad_form() -> Response | None:
    """A start with a bad value says so in the form; Locust itself would start and stop at once."""
    if request.endpoint != "locust.swarm":
        return None
    wrong = check_form(request.form)
    return None if wrong is None else jsonify({"success": False, "message": wrong})


def _extend(answer: Response, live: Live) -> Response:
    """Our rows in the answer that feeds Locust's tables, our charts under the tab."""
    if request.endpoint == "locust.request_stats" and answer.is_json:
        stats = answer.get_json()
        stats["extended_stats"] = [
            {"key": TAB, "data": figure_rows(live, time.perf_counter())},
            {"key": LEVELS, "data": level_rows(live)},
        ]
        answer.set_data(jsonify(stats).get_data())
    elif request.endpoint == "locust.index" and answer.mimetype == "text/html":
        page = answer.get_data(as_text=True)
        answer.set_data(page.replace("</body>", _template("live_tab.html") + "</body>"))
    return answer
