"""The short, fixed requests of a probe stream. Pure."""

from __future__ import annotations

from paceline.loadgen.lengths import even_lengths
from paceline.loadgen.prompt import Prompt
from paceline.loadgen.scale import Scale
from paceline.loadgen.synthetic import SizeClass, Synthetic
from paceline.loadgen.timing import PROBE_KIND

PROBE_TOKENS = (16, 8)  # of prompt and answer


def probe_prompt(number: int, level: int, nonce: int) -> Prompt:
    """Probe `number` of a level: like every other but for its tag and words."""
    size = SizeClass(even_lengths(*PROBE_TOKENS), kind=PROBE_KIND)
    return Synthetic("probe", "", (size,), Scale(nonce=nonce)).prompt(number, level)
