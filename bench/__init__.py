"""The benchmark suite: what a call, a list, a start costs, against a bar. Run `make bench`."""
