"""The processes that one model is spread over, as each of them sees the others. Rank 0 tells, the others hear.

What is told goes over a group of its own, by way of the host, whatever the devices talk over.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import msgspec
import torch
import torch.distributed as dist

from ..bare_step import BareStep
from ..config import EngineConfig, ModelConfig
from ..errors import SetupError

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
# For a rank that loads slower than others. Who dies is noticed otherwise, and who hangs by the engine's keeper.
_SKEW = timedelta(hours=2)
_FOREVER = timedelta(days=3650)  # nothing may be asked for long


class RankConfig(EngineConfig, ModelConfig):
    """What all ranks of a model have in common."""

    @classmethod
    def of(cls, model: ModelConfig, engine: EngineConfig) -> RankConfig:
        """Of two configurations that may be one, and have more."""
        values = model.model_dump(include=set(ModelConfig.model_fields))
        return cls(**values, **engine.model_dump(include=set(EngineConfig.model_fields)))


@dataclass(frozen=True, slots=True)
class Place:
    """Which of `size` ranks a process is; `local` counts those of its machine. They meet at `rendezvous`, a URL."""

    rank: int
    local: int
    size: int
    rendezvous: str

    @classmethod
    def of_torchrun(cls, size: int) -> Place:
        """What torchrun says. SetupError if that is another number of ranks."""
        started = int(os.environ["WORLD_SIZE"])
        if started != size:
            raise SetupError(f"torchrun started {started} processes, --tensor-parallel says {size}")
        return cls(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), size, "env://")


class WarmUp(msgspec.Struct, array_like=True, tag=True):
    """Run what is slow the first time."""


class Heal(msgspec.Struct, array_like=True, tag=True):
    """Zero what is not finite in these pages."""

    pages: tuple[int, ...]


class End(msgspec.Struct, array_like=True, tag=True):
    """The last order."""


Order = BareStep | WarmUp | Heal | End
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Order).decode


class Ranks:
    """The group, joined. Every rank makes one at the same time, and calls the same methods in the same order."""

    def __init__(self, place: Place, device: torch.device) -> None:
        self.place = place
        os.environ["LOCAL_RANK"] = str(place.local)  # transformers reads it
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device)
        dist.init_process_group(
            BACKENDS[device.type],
            init_method=place.rendezvous,
            rank=place.rank,
            world_size=place.size,
            timeout=_SKEW,
            device_id=device if on_gpu else None,
        )
        self._host = dist.new_group(backend="gloo", timeout=_FOREVER)

    def tell(self, order: Order) -> None:
        """Rank 0: gives an order to all others."""
        body = torch.frombuffer(bytearray(_encode(order)), dtype=torch.uint8)
        dist.broadcast(torch.tensor([len(body)]), 0, group=self._host)
        dist.broadcast(body, 0, group=self._host)

    def hear(self) -> Order:
        """The others: the next order. RuntimeError if rank 0 is gone."""
        length = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(length, 0, group=self._host)
        body = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(body, 0, group=self._host)
        order: Order = _decode(body.numpy().data)
        return order

    def fewest(self, count: int) -> int:
        """The smallest count of all ranks."""
        smallest = torch.tensor([count])
        dist.all_reduce(smallest, dist.ReduceOp.MIN, group=self._host)
        return int(smallest)

    def close(self) -> None:
        """After the last order."""
        dist.destroy_process_group()
