"""Keeps transformers' own chatter off the terminal while it works for us."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr

from huggingface_hub.utils.tqdm import enable_progress_bars
from transformers.utils import logging as chatter


@contextmanager
def quiet(*, downloads: bool = False) -> Iterator[None]:
    """Neither warnings nor bars; with `downloads` those of the hub stay, if someone looks."""
    level = chatter.get_verbosity()
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    with ExitStack() as stack:
        stack.callback(chatter.set_verbosity, level)
        stack.callback(chatter.enable_progress_bar)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if downloads and sys.stderr.isatty():
            enable_progress_bars()
        else:  # the GGUF reader draws its bar without asking; errors come as exceptions, not as text
            stack.enter_context(redirect_stderr(io.StringIO()))
        yield
