"""Importing torchvision where its compiled operators do not load.

The registry's wheels of torchvision for Linux are CUDA builds. Beside a CPU-only PyTorch their library of operators does not load, and
the import fails with "operator torchvision::nms does not exist" when it registers shapes for operators that nobody declared. The image
classifiers need none of these operators: declaring the two is enough.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

OPERATORS = ("nms", "qnms")  # those that the import itself registers something for
_declared: list[object] = []  # a torch.library.Library takes its declarations with it when it is collected


def import_torchvision() -> ModuleType:
    """The module ``torchvision``, with its classifiers usable on any build of PyTorch."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    _declare_operators()
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left half done
    return importlib.import_module("torchvision")


def _declare_operators() -> None:
    import torch

    if not _declared:
        library = torch.library.Library("torchvision", "FRAGMENT")
        _declared.append(library)
        for name in OPERATORS:
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
