"""Load for a Paceline server: `locust -f loadgen/locustfile.py` opens the web UI, target 127.0.0.1:50051.

`--headless -u 8 -t 60s` keeps eight requests in flight, `--headless --concurrency 1,2,4,8` goes
through levels, `--out DIR` writes one line per generation; `--help` shows the rest.
"""

from __future__ import annotations

import locust

from paceline.loadgen.run import register
from paceline.loadgen.user import PacelineUser

__all__ = ["PacelineUser"]

register(locust.events)
