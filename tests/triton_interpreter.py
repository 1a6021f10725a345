"""Import before anything imports triton: its kernels then run on CPUs, one program after the other, in Python."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
