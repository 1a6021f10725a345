"""The command line that runs the load generator, so that nobody else spells Locust's flags."""

from __future__ import annotations

import sys
from pathlib import Path

from paceline.loadgen.options import LoadOptions

ENTRY = Path(__file__).parent / "entry" / "locustfile.py"


def command_line(
    options: LoadOptions,
    *,
    processes: int = 1,
    master_port: int | None = None,
    users: int | None = None,
    run_time_s: float | None = None,
    loglevel: str = "WARNING",
) -> list[str]:
    """A headless run that ends by itself: through the levels of `options.concurrency`.

    Without levels give `users` and `run_time_s`: plain closed loop. The exit code is 0 even where
    requests failed (the records say which); anything else means that the run itself broke.
    """
    if bool(options.concurrency or options.open_rates) == (users is not None):
        raise ValueError("give either options.concurrency, a rate or users")
    command = [sys.executable, "-m", "locust", "-f", str(ENTRY), "--headless", "--only-summary"]
    command += ["--exit-code-on-error", "0", "--loglevel", loglevel]
    if users is not None:
        command += ["--users", str(users), "--spawn-rate", str(min(users, 100))]
    if run_time_s is not None:
        command += ["--run-time", f"{max(1, round(run_time_s))}s"]
    if processes > 1:
        command += ["--processes", str(processes)]
    if master_port is not None:
        command += ["--master-port", str(master_port), "--master-bind-port", str(master_port)]
    return command + options.to_arguments()
