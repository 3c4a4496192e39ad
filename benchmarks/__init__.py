"""Every figure that the docs quote, as scripts that anyone can re-run: `make bench`, or `python -m benchmarks NAME …`."""
