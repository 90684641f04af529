"""The NAS-Bench-201 search space: cells of six edges, one of five operations on each (Dong and Yang, ICLR 2020)."""
