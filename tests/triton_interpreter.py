"""Import before Triton: its kernels then run on CPU tensors, in the interpreter."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
