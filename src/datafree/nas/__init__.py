"""Data-free neural architecture search: search spaces, search algorithms, zero-cost proxies, retraining."""
