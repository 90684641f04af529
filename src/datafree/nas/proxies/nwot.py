"""NWOT: how much the states of the ReLUs of an untrained network differ between images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from datafree.nas.proxy import score_by_network
from datafree.zoo.backbones import Classifier

ACTIVATIONS = {"relu", "relu_", "relu6", "leaky_relu"}
RIDGE = 1e-5  # smallest eigenvalue


def nwot(network: Classifier, images: Tensor, seed: int) -> float:
    """log |K|, K_ij the number of ReLUs in the same state for images i and j: Mellor et al., ICML 2021."""
    count = len(images)
    kernel = torch.zeros(count, count, dtype=torch.float64, device=images.device)
    with torch.no_grad(), _ActivationRecorder() as recorder:
        network.train()(images)
    for activation in recorder.outputs:
        active = (activation.flatten(1) > 0).double()
        kernel += active @ active.T + (1 - active) @ (1 - active).T
    return torch.linalg.eigvalsh(kernel).clamp_min(RIDGE).log().sum().item()


class _ActivationRecorder(TorchFunctionMode):
    """Collects the outputs of ReLUs in a ``with`` block, both of modules and of function calls (which module hooks would miss)."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ACTIVATIONS:
            self.outputs.append(result)
        return result


PROXY = score_by_network(nwot)
