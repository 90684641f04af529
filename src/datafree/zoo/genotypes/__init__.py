"""How the architectures of the search spaces are written down. Pure Python: the configuration is checked without PyTorch."""
