"""Conventions for logits: at least float32, and the value for a class that a network does not have."""

from __future__ import annotations

import torch
from torch import Tensor

ABSENT = -1e4  # logit of a class that a network does not have: probability zero without a NaN in the loss


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision, such as autocast gives, as float32; float64 is left as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
