from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from datafree.checkpoints import Checkpoint
from datafree.config import ZeroCostConfig
from datafree.nas import zero_cost_search
from datafree.nas.proxies import az_nas
from datafree.nas.proxy_scores import proxy_measures, proxy_scores
from datafree.nas.spaces.nasbench201.space import NasBench201Space
from datafree.zoo.backbones import BlockBackbone

SPACE = NasBench201Space(4, 1, 16)


class Chain(BlockBackbone):
    """A sequence of modules."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.modules_in_order = nn.ModuleList(modules)

    def feature_map(self, images, *path):
        for module in self.modules_in_order:
            images = module(images)
        return images

    def sequence(self):
        return list(self.modules_in_order)


class Scaled(nn.Module):
    """A linear map over channels: with a rotation ``matrix`` its Jacobian is ``factor`` times that rotation."""

    def __init__(self, matrix: torch.Tensor, factor: float, kept: int | None = None) -> None:
        super().__init__()
        self.matrix, self.factor, self.kept = matrix, factor, kept

    def forward(self, x):
        return self.factor * torch.einsum("oi,bihw->bohw", self.matrix[: self.kept], x)


def _rotation(size: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))[0]


def test_entropy_is_that_of_the_normalised_eigenvalues():
    """White channels give log C, one direction 0, two directions with variances 3 : 1 the entropy of (3/4, 1/4)."""
    rng = torch.Generator().manual_seed(0)
    white = torch.randn(64, 4, 16, 16, generator=rng)
    assert az_nas.entropy(white) == pytest.approx(math.log(4), abs=1e-3)
    assert az_nas.entropy(white[:, :1].expand(-1, 4, -1, -1)) == pytest.approx(0, abs=1e-6)
    scale = torch.tensor([3**0.5, 1, 0, 0]).view(4, 1, 1)
    rotated = torch.einsum("oi,bihw->bohw", _rotation(4), white * scale)
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert az_nas.entropy(rotated) == pytest.approx(expected, abs=5e-3)
    assert az_nas.entropy(torch.zeros(2, 4, 3, 3)) == 0


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_gain_of_a_scaled_rotation_is_its_scale(factor):
    before = torch.randn(64, 8, 16, 16).requires_grad_()
    assert az_nas.gain(before, Scaled(_rotation(8), factor)(before), 0, 0) == pytest.approx(factor, rel=0.05)


def test_an_identity_and_a_block_without_gradient_have_no_gain():
    before = torch.randn(4, 8, 6, 6).requires_grad_()
    assert az_nas.gain(before, 1 * before, 0, 0) == 0
    assert az_nas.gain(before, torch.zeros_like(before), 0, 0) == 0
    assert az_nas.gain(before, torch.zeros_like(before).requires_grad_(), 0, 0) == 0


@pytest.mark.parametrize("size", [8, 7])
def test_the_gain_of_a_block_that_halves_the_resolution(size):
    """Every second pixel, an odd size rounded up: of the four input pixels of an output pixel, one gets its gradient unchanged."""
    before = torch.randn(64, 4, size, size).requires_grad_()
    assert az_nas.gain(before, before[:, :, ::2, ::2], 0, 0) == pytest.approx(1, rel=0.1)


def test_the_components_of_a_chain_of_rotations():
    """The last rotation keeps half of the channels: entropies are log C of each map, gains are 2 and 1."""
    torch.manual_seed(0)
    stem = nn.Conv2d(4, 8, 1, bias=False)
    chain = Chain(stem, Scaled(_rotation(8), 2.0), Scaled(_rotation(8), 1.0, kept=4))
    images = torch.randn(64, 4, 16, 16)
    components = az_nas.components(chain, images, 0)
    with torch.no_grad():
        maps = [stem(images)]
        maps += [chain.modules_in_order[1](maps[0])]
        maps += [chain.modules_in_order[2](maps[1])]
    entropies = [az_nas.entropy(feature_map) for feature_map in maps]
    assert components["expressivity"] == pytest.approx(sum(entropies))
    assert components["progressivity"] == pytest.approx(min(entropies[1] - entropies[0], entropies[2] - entropies[1]))
    assert components["trainability"] == pytest.approx(((2 - 2 - 1 / 2) + (2 - 1 - 1)) / 2, abs=0.1)
    assert az_nas.components(chain, images, 0) == components
    assert not any(module._forward_hooks for module in chain.modules())


def test_components_are_combined_by_rank():
    """By hand: n = 3, ranks a = (3, 1.5), b = (1, 1.5), c = (2, 3)."""
    combined = az_nas.combine({"a": {"x": 9.0, "y": 0.0}, "b": {"x": -1e6, "y": 0.0}, "c": {"x": 8.9, "y": 0.1}})
    expected = {"a": math.log(3 / 3 * 1.5 / 3), "b": math.log(1 / 3 * 1.5 / 3), "c": math.log(2 / 3 * 3 / 3)}
    assert combined == pytest.approx(expected)
    assert az_nas.combine({}) == {}


def test_az_nas_ranks_3x3_convolutions_first_and_a_cell_without_weights_last():
    cells = [(name,) * 6 for name in ("nor_conv_3x3", "nor_conv_1x1", "skip_connect", "none")]
    scores = proxy_scores("az_nas", SPACE, {cell: proxy_measures("az_nas", SPACE, cell, 3, 16, 0, "cpu") for cell in cells})
    assert sorted(cells, key=scores.__getitem__, reverse=True)[0] == cells[0]
    assert sorted(cells, key=scores.__getitem__)[0] in cells[2:]


def test_a_search_by_az_nas_returns_the_best_of_all_scored_cells(joined):
    config = ZeroCostConfig(proxy="az_nas", channels=4, batch_size=8, max_macs=0, population=4, generations=3, parents=2)
    result = zero_cost_search.search(SPACE, joined, config, "key", 0, "cpu", Checkpoint(None))
    scores = {cell: measures["score"] for cell, measures in result.measures.items()}
    assert scores == proxy_scores("az_nas", SPACE, result.measures)
    assert scores[result.best] == max(scores.values())
    assert len(scores) == 12
