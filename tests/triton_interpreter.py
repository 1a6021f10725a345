"""Where Triton's kernels run in tests: on the GPU, or on the CPU by its interpreter (see `conftest`)."""

import torch

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
