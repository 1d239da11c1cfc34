"""Benchmarks: `python -m benchmarks NAME`. They are not tests; what they say is in `README.md`."""
