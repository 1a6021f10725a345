"""The Paceline server: Hugging Face text generation over gRPC, batched by one step engine."""

import sys as _sys

# `import openvino` tells Google Analytics of itself where it finds this package, by a process that it forks: from a
# server that should call nobody, among gRPC's threads. Without it OpenVINO works the same.
_sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: an import of it fails
