"""How much memory there is for pages."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from ..config import ModelConfig
from ..errors import SetupError

MIB = 2**20
_CGROUP = Path("/sys/fs/cgroup")
# On a host shared with other work, a modest fixed pool: 16,000 tokens of SmolLM2-135M.
CPU_POOL_BYTES = 384 * MIB
CPU_FREE_SHARE = 0.25
# The rest is for what the allocator cannot use.
GPU_FREE_SHARE = 0.95
GPU_GRAPHS_BYTES = 1024 * MIB


def pages_that_fit(
    page_bytes: int, device: torch.device, config: ModelConfig, working_bytes: int = 0
) -> int:
    """Pages of `page_bytes` bytes that the configured, or the free, memory holds.

    Args:
        working_bytes: what a step needs at most beside weights and pages, if that was measured (on a GPU).

    Raises:
        SetupError: not even one fits.
    """
    if config.kv_cache_mib is not None:
        room = config.kv_cache_mib * MIB
    elif device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        # Graphs hold a step's memory once more, and their kernels' code.
        room = int(free * GPU_FREE_SHARE) - 2 * working_bytes - GPU_GRAPHS_BYTES
    else:
        room = min(CPU_POOL_BYTES, int(_free_host_bytes() * CPU_FREE_SHARE))
    pages = room // page_bytes
    if pages < 1:
        raise SetupError(
            f"no memory for the KV cache: a page takes {page_bytes / MIB:.1f} MiB and {room / MIB:.0f} "
            "MiB are free; give more with --kv-cache-mib or take smaller pages with --page-size"
        )
    return pages


def _free_host_bytes() -> int:
    """Memory this process may still take: what the machine can free, within its container's limit."""
    available = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return available
    return min(available, max(0, limit - used))
