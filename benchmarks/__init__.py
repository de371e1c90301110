"""The speed suite: foedus beside bare PyTorch loops, alternating in one run, as ratios. ``python -m benchmarks``."""
