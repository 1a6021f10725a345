"""The lines in which steps travel: some on the host, one on the device. See `staging` for what is in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .staging import Fields, Shape, split

_ON_HOST = 3  # one being copied, one waiting behind it, one being filled


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """One line on the host; free again when the device has copied it."""

    host: Tensor
    copied: torch.cuda.Event | None


class Lines:
    """Owns lines of `length` int32s, and remembers where the fields of each shape are."""

    def __init__(self, length: int, device: torch.device) -> None:
        self._line = torch.zeros(length, dtype=torch.int32, device=device)
        self._lines = [_host_line(length, device.type == "cuda") for _ in range(_ON_HOST)]
        self._next = 0
        self._views: dict[tuple[int, Shape], Fields[np.ndarray]] = {}
        self._device_views: dict[Shape, Fields[Tensor]] = {}

    def next(self, shape: Shape) -> tuple[Fields[np.ndarray], Fields[Tensor]]:
        """The host's next free line, cut for this shape, and the device's."""
        self._next = (self._next + 1) % _ON_HOST
        line = self._lines[self._next]
        if line.copied is not None:
            line.copied.synchronize()
        host = self._views.get((self._next, shape))
        if host is None:
            host = self._views[self._next, shape] = split(line.host.numpy(), shape)
        return host, self._on_device(shape)

    def send(self, shape: Shape) -> None:
        """Copies the line that `next` gave to the device. Nothing waits."""
        line = self._lines[self._next]
        self._line[: shape.length].copy_(line.host[: shape.length], non_blocking=True)
        if line.copied is not None:
            line.copied.record()

    def empty(self, shape: Shape) -> Fields[Tensor]:
        """The device's line as a step has it that is all padding."""
        fields = self._on_device(shape)
        self._line.zero_()
        fields.token_slots.fill_(-1)
        fields.sample_slots.fill_(-1)
        return fields

    def _on_device(self, shape: Shape) -> Fields[Tensor]:
        fields = self._device_views.get(shape)
        if fields is None:
            fields = self._device_views[shape] = split(self._line, shape)
        return fields


def _host_line(length: int, pinned: bool) -> _Line:
    host = torch.zeros(length, dtype=torch.int32, pin_memory=pinned)
    copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
    return _Line(host, copied)
