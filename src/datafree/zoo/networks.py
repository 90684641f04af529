"""Network cards (the card.json of trained backbones) and network size: parameters and multiply-adds (MACs)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from datafree.config import BackboneConfig, as_tree
from datafree.devices import leave_out_compiler
from datafree.zoo.backbones import Backbone, parameter_count


def network_card(backbone: Backbone, config: BackboneConfig, shape: Sequence[int], mean: list[float], std: list[float]) -> dict[str, Any]:
    """The card of a backbone for images of ``shape`` [C, H, W]: the settings needed to load the weights, parameters, MACs."""
    return {
        "backbone": as_tree(config),
        "input": list(shape),
        "mean": mean,
        "std": std,
        "parameters": parameter_count(backbone),
        "macs": multiply_adds(backbone, shape),
    }


def multiply_adds(module: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-adds for one image of shape [C, H, W]: half of the FLOPs of PyTorch's counter. Does not change the module."""
    leave_out_compiler()
    modes = {part: part.training for part in module.modules()}
    device = next(module.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, *shape, device=device))
    for part, training in modes.items():
        part.training = training
    return counter.get_total_flops() // 2
