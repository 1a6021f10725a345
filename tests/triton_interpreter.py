"""Import before anything imports triton: without a GPU its kernels run on CPUs, one program after the other, in Python."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
