"""Measurements by hand: what the analyses cost (`make bench`), and how the code is laid out (`python -m benchmarks.house`)."""
