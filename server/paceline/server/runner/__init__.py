"""Everything that touches torch: loading, packing, attention, sampling, baselines."""
