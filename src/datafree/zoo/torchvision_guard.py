"""Import of torchvision where its compiled operators do not load.

The torchvision wheels on PyPI for Linux are CUDA builds. With a CPU-only PyTorch their operator library does not load, and the import
fails with "operator torchvision::nms does not exist" when torchvision registers shape functions for undeclared operators. The image
classifiers need none of these operators: declaring the two is enough.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

OPERATORS = ("nms", "qnms")  # those for which the import registers shape functions
_declared: list[object] = []  # kept, because a garbage-collected torch.library.Library removes its declarations


def import_torchvision() -> ModuleType:
    """The module ``torchvision``, with its classifiers usable on any build of PyTorch."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    _declare_operators()
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # partially initialised by the failed import
    return importlib.import_module("torchvision")


def _declare_operators() -> None:
    import torch

    if not _declared:
        library = torch.library.Library("torchvision", "FRAGMENT")
        _declared.append(library)
        for name in OPERATORS:
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
