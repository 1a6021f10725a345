"""Everything that touches torch: loading, packing, attention, sampling, baselines."""

import os as _os

# A thread that waits for the others spins this often before it sleeps. By OpenMP's default it spins for milliseconds,
# and where something else wants the cores, the thread it waits for is not running: operators then take whole
# scheduler ticks, a step ten times as long. Read when torch is loaded, so it must be said here.
if "OMP_WAIT_POLICY" not in _os.environ:
    _os.environ.setdefault("GOMP_SPINCOUNT", "3000")
