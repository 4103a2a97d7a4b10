"""What the analyses cost, measured: `python -m benchmarks.attribution`, or `make bench`."""
