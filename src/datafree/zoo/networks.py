"""The card of a network that this project trained, and a network's size in parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from datafree.config import BackboneConfig, as_tree
from datafree.zoo.backbones import Backbone, parameter_count


def network_card(backbone: Backbone, config: BackboneConfig, shape: Sequence[int], mean: list[float], std: list[float]) -> dict[str, Any]:
    """What a reader of the weights needs, and the network's size: parameters, and multiply-adds for one image."""
    return {
        "backbone": as_tree(config),
        "input": list(shape),
        "mean": mean,
        "std": std,
        "parameters": parameter_count(backbone),
        "macs": multiply_adds(backbone, shape),
    }


def multiply_adds(module: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-adds of one image of shape [C, H, W]: half of what PyTorch's counter calls FLOPs. Leaves the module as it was."""
    modes = {part: part.training for part in module.modules()}
    device = next(module.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, *shape, device=device))
    for part, training in modes.items():
        part.training = training
    return counter.get_total_flops() // 2
