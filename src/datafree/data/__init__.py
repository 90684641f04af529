"""Real images: the embedded glyph data set, and a user's own folders.

Importing this package or ``datafree.data.layout`` does not load PyTorch.
"""

SPLITS = ("train", "validation", "test")
