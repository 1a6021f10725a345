"""What `command.py` hands to `locust -f`; the same as the repository's `loadgen/locustfile.py`."""

from __future__ import annotations

import locust

from paceline.loadgen.run import register
from paceline.loadgen.user import PacelineUser

__all__ = ["PacelineUser"]

register(locust.events)
