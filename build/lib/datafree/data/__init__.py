"""Real images: the embedded glyph data set, and a user's own folders.

Kept light: importing this package or ``datafree.data.layout`` loads no PyTorch.
"""

SPLITS = ("train", "validation", "test")
