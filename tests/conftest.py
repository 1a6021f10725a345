"""Before any test imports triton: without a GPU its kernels run on CPUs, one program after the other, in Python."""

import os

from paceline.server.devices import on_gpu

if not on_gpu("auto"):
    os.environ.setdefault("TRITON_INTERPRET", "1")
