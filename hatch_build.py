"""Build hook: makes the protobuf stubs beside their `.proto` for the wheel and for the editable install."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTO_ROOT = Path("proto")


def generate_stubs(root: Path) -> None:
    """Writes `*_pb2.py`, `*_pb2_grpc.py` and their typed `.pyi` beside every `.proto` under `root`/proto.

    The import root is `proto`, so generated modules import `paceline.v1` as everyone else does.
    """
    from grpc_tools import protoc

    proto_root = root / PROTO_ROOT
    sources = sorted(str(path) for path in proto_root.rglob("*.proto"))
    well_known = Path(protoc.__file__).with_name("_proto")
    outputs = [
        f"--{plugin}={proto_root}"
        for plugin in ("python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out")
    ]
    arguments = ["protoc", f"-I{proto_root}", f"-I{well_known}", *outputs, *sources]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc failed on {', '.join(sources)}")


class StubBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # generic only while type checking
    """Runs before hatchling collects files; `artifacts` in pyproject.toml lets the ignored stubs in."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate_stubs(Path(self.root))
