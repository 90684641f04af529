"""Jacob_cov: how much the gradients of different images differ in an untrained network."""

from __future__ import annotations

import torch
from torch import Tensor

from datafree.nas.proxy import score_by_network
from datafree.zoo.backbones import Classifier

RIDGE = 1e-5  # added to the eigenvalues


def jacob_cov(network: Classifier, images: Tensor, seed: int) -> float:
    """−Σ (log(λ + k) + 1 / (λ + k)) over the eigenvalues λ of the correlation matrix of the images' gradients, k = 1e-5.

    Mellor et al., "Neural Architecture Search without Training", first version (2020), as in Abdelfattah et al., ICLR 2021.
    """
    images = images.detach().clone().requires_grad_()
    gradient = torch.autograd.grad(network.train()(images).sum(), images, allow_unused=True, materialize_grads=True)[0].flatten(1).double()
    centred = gradient - gradient.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-30)
    values = torch.linalg.eigvalsh(unit @ unit.T).clamp_min(0) + RIDGE
    return -(values.log() + 1 / values).sum().item()


PROXY = score_by_network(jacob_cov)
