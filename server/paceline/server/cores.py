"""How many processors there are to compute with. Loads no torch."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable() -> int | None:
    """Physical cores this process may use, within its container's limit; None where the system does not tell."""
    cores = _cores()
    return None if cores is None else max(1, min(cores, _quota()))


def _cores() -> int | None:
    """Physical cores behind the CPUs this process may run on: two threads of a core count once."""
    try:
        cpus = os.sched_getaffinity(0)
        return len({Path(_TOPOLOGY.format(cpu)).read_text() for cpu in cpus})
    except (AttributeError, OSError):  # not Linux, or /sys is hidden
        return None


def _quota() -> int:
    """Whole CPUs of this container's limit; a very large number where there is none."""
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return 2**31
