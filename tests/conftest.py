"""Before any test imports triton: without a GPU its kernels run on CPUs, one program after the other, in Python."""

import os
import signal

import hypothesis

from paceline.server.devices import on_gpu

hypothesis.settings.register_profile("unhurried", deadline=None)  # machines may be slow
hypothesis.settings.load_profile("unhurried")

# A shell that runs the tests in its background has them ignore Ctrl-C, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

if not on_gpu("auto"):
    os.environ.setdefault("TRITON_INTERPRET", "1")
