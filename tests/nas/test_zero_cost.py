from __future__ import annotations

import math
from random import Random

import pytest
import torch
from torch import nn

from datafree.config import PROXIES
from datafree.nas import zero_cost
from datafree.nas.spaces.nasbench201 import NasBench201Space
from datafree.nas.zero_cost import standings, untrained
from datafree.zoo.backbones import BlockBackbone, Classifier

SPACE = NasBench201Space(4, 1, 16)
DENSE = ("nor_conv_3x3",) * 6


class Plain(BlockBackbone):
    """One convolution, BatchNorm, ReLU, then the mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.feature_size = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), 4

    def feature_map(self, images):
        return self.norm(self.conv(images)).relu()

    def sequence(self):
        return [self.conv]


def random_cells(count: int) -> list:
    rng = Random(3)
    return [SPACE.sample(rng) for _ in range(count)]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Classifier(Plain(), 3)


@pytest.fixture
def images():
    return zero_cost.noise(6, 3, 8, 0)


def test_synflow_is_the_sum_of_products_along_paths(network, images):
    """With absolute weights the output is linear in each layer: both layers' Σ θ ∂R/∂θ are R itself without the bias."""
    conv, head = network.backbone.conv.weight.abs().double(), network.head.weight.abs().double()
    maps = nn.functional.conv2d(torch.ones(1, 3, 8, 8, dtype=torch.float64), conv, padding=1)
    expected = math.log(2 * (maps.mean((2, 3)) @ head.T).sum().item())
    assert zero_cost.synflow(network, images, 0) == pytest.approx(expected)


def test_nwot_counts_rectifiers_that_agree(network, images):
    active = (network.train().backbone.feature_map(images).flatten(1) > 0).double()
    kernel = torch.tensor([[(a == b).sum().item() for b in active] for a in active], dtype=torch.float64)
    assert zero_cost.nwot(network, images, 0) == pytest.approx(torch.linalg.slogdet(kernel)[1].item())


def test_nwot_of_images_that_no_rectifier_tells_apart_is_finite_and_low(network, images):
    twins = torch.cat([images[:3], images[:3]])
    assert math.isfinite(zero_cost.nwot(network, twins, 0))
    assert zero_cost.nwot(network, twins, 0) < zero_cost.nwot(network, images, 0) - 10


def test_jacob_cov_is_the_papers_score_of_the_gradients_correlation(network, images):
    given = images.clone().requires_grad_()
    gradient = torch.autograd.grad(network.train()(given).sum(), given)[0].flatten(1)
    values = torch.linalg.eigvalsh(torch.corrcoef(gradient.double())) + 1e-5
    assert zero_cost.jacob_cov(network, images, 0) == pytest.approx(-(values.log() + 1 / values).sum().item(), rel=1e-3)


def test_zen_is_larger_for_a_deeper_network(images):
    scores = [untrained("zen", SPACE, genotype, 3, 6, 0, "cpu") for genotype in (SPACE.cheapest(), DENSE)]
    assert scores[0]["score"] < scores[1]["score"]


@pytest.mark.parametrize("name", PROXIES)
def test_scores_are_finite_repeatable_and_leave_the_global_state(name):
    state = torch.get_rng_state()
    first, second = (untrained(name, SPACE, DENSE, 3, 6, 0, "cpu") for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    empty = ("none",) * 6
    second = untrained(name, SPACE, empty, 3, 6, 0, "cpu")
    assert all(map(math.isfinite, [*first.values(), *second.values()]))
    standing = standings(name, SPACE, {DENSE: first, empty: second})
    assert list(standing) == [DENSE, empty]
    assert all(map(math.isfinite, standing.values()))


@pytest.mark.parametrize("name", zero_cost.PROXIES)
def test_a_score_leaves_the_networks_weights_and_hooks(network, images, name):
    before = {key: value.clone() for key, value in network.named_parameters()}
    zero_cost.PROXIES[name](network, images, 0)
    assert all(torch.equal(value, before[key]) and value.grad is None for key, value in network.named_parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_sizes_are_scores():
    assert untrained("macs", SPACE, DENSE, 3, 6, 0, "cpu") == {"score": SPACE.macs(DENSE)}
    assert untrained("parameters", SPACE, DENSE, 3, 6, 0, "cpu") == {"score": SPACE.parameters(DENSE)}
    assert set(zero_cost.PROXIES) | {"macs", "parameters", "az_nas", "az_synflow"} == set(PROXIES)


def test_az_synflow_is_the_mean_rank_by_its_two_scores():
    cells = random_cells(6)
    found = {name: {cell: untrained(name, SPACE, cell, 3, 6, 0, "cpu") for cell in cells} for name in ("az_nas", "synflow", "az_synflow")}
    values = {name: list(standings(name, SPACE, found[name]).values()) for name in found}
    ranks = [[sum(other <= value for other in values[name]) for value in values[name]] for name in ("az_nas", "synflow")]
    assert len({tuple(one) for one in ranks}) == 2  # the two differ, and neither has ties
    assert values["az_synflow"] == pytest.approx([(a + b) / 12 for a, b in zip(*ranks, strict=True)])
