"""Benchmarks: what is timed, beside what, as ratios measured in one run; see README.md."""
