from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from datafree.nas.proxies import PROXIES
from datafree.nas.proxies.jacob_cov import jacob_cov
from datafree.nas.proxies.nwot import nwot
from datafree.nas.proxies.synflow import synflow
from datafree.nas.proxy_scores import noise
from datafree.zoo.backbones import BlockBackbone, Classifier


class Plain(BlockBackbone):
    """One convolution, BatchNorm, ReLU, then the mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.feature_size = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), 4

    def feature_map(self, images):
        return self.norm(self.conv(images)).relu()

    def sequence(self):
        return [self.conv]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Classifier(Plain(), 3)


@pytest.fixture
def images():
    return noise(6, 3, 8, 0)


def test_synflow_is_the_sum_of_products_along_paths(network, images):
    """With absolute weights the output is linear in each of two layers: Σ θ ∂R/∂θ of each is R itself, without the bias."""
    conv, head = network.backbone.conv.weight.abs().double(), network.head.weight.abs().double()
    maps = nn.functional.conv2d(torch.ones(1, 3, 8, 8, dtype=torch.float64), conv, padding=1)
    expected = math.log(2 * (maps.mean((2, 3)) @ head.T).sum().item())
    assert synflow(network, images, 0) == pytest.approx(expected)


def test_nwot_counts_relus_in_the_same_state(network, images):
    active = (network.train().backbone.feature_map(images).flatten(1) > 0).double()
    kernel = torch.tensor([[(a == b).sum().item() for b in active] for a in active], dtype=torch.float64)
    assert nwot(network, images, 0) == pytest.approx(torch.linalg.slogdet(kernel)[1].item())


def test_nwot_of_identical_images_is_finite_and_low(network, images):
    twins = torch.cat([images[:3], images[:3]])
    assert math.isfinite(nwot(network, twins, 0))
    assert nwot(network, twins, 0) < nwot(network, images, 0) - 10


def test_jacob_cov_is_computed_from_the_correlation_of_the_gradients(network, images):
    given = images.clone().requires_grad_()
    gradient = torch.autograd.grad(network.train()(given).sum(), given)[0].flatten(1)
    values = torch.linalg.eigvalsh(torch.corrcoef(gradient.double())) + 1e-5
    assert jacob_cov(network, images, 0) == pytest.approx(-(values.log() + 1 / values).sum().item(), rel=1e-3)


@pytest.mark.parametrize("name", ["synflow", "jacob_cov", "nwot", "zen"])
def test_a_proxy_changes_neither_weights_nor_hooks_of_the_network(network, images, name):
    before = {key: value.clone() for key, value in network.named_parameters()}
    PROXIES[name].measure(network, images, 0)
    assert all(torch.equal(value, before[key]) and value.grad is None for key, value in network.named_parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())
