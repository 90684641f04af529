"""The network of each search space that holds all of its architectures, weights shared."""
