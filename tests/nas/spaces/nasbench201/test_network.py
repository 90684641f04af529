from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datafree.nas.spaces.nasbench201.genotype import EDGES, OPERATIONS
from datafree.nas.spaces.nasbench201.network import Cell, NasBench201, Reduction
from datafree.zoo.backbones import Backbone

MIXED = ("nor_conv_3x3", "skip_connect", "nor_conv_1x1", "none", "avg_pool_3x3", "nor_conv_3x3")


@settings(max_examples=12)
@given(st.tuples(*[st.sampled_from(OPERATIONS)] * len(EDGES)), st.integers(16, 21), st.sampled_from([1, 3]), st.integers(1, 2))
def test_every_cell_gives_finite_features_of_feature_size(genotype, size, channels, cells):
    network = NasBench201(genotype, 4, cells, channels)
    features = network(torch.rand(2, channels, size, size))
    assert isinstance(network, Backbone)
    assert features.shape == (2, network.feature_size) == (2, 16)
    assert features.isfinite().all()


def test_each_node_is_the_sum_of_its_incoming_edges():
    torch.manual_seed(0)
    cell = Cell(MIXED, 4).double().eval()
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    e01, e02, e12, _, e13, e23 = cell.edges
    node1 = e01(x)
    node2 = e02(x) + e12(node1)
    torch.testing.assert_close(cell(x), e13(node1) + e23(node2), rtol=0, atol=1e-12)


def test_a_cell_of_skips_adds_the_input_once_per_path():
    x = torch.randn(2, 4, 5, 5)
    # Paths from 0 to 3: 03, 013, 023, 0123.
    torch.testing.assert_close(Cell(("skip_connect",) * 6, 4)(x), 4 * x)


def test_a_cell_without_operations_is_zero():
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(Cell(("none",) * 6, 4)(x), torch.zeros_like(x))


def test_the_order_is_relu_convolution_batch_norm():
    # ReLU first: a negative input gives the output of a zero input.
    cell = Cell(("none", "none", "none", "nor_conv_3x3", "none", "none"), 4).eval()
    x = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(cell(-x), cell(torch.zeros_like(x)))
    assert not torch.allclose(cell(x), cell(torch.zeros_like(x)))


def test_average_pooling_leaves_out_the_padding():
    cell = Cell(("none", "none", "none", "avg_pool_3x3", "none", "none"), 2)
    torch.testing.assert_close(cell(torch.ones(1, 2, 4, 4)), torch.ones(1, 2, 4, 4))


@pytest.mark.parametrize(("size", "half"), [(8, 4), (9, 5)])
def test_a_reduction_halves_the_resolution_and_doubles_the_channels(size, half):
    assert Reduction(4)(torch.randn(2, 4, size, size)).shape == (2, 8, half, half)


def test_gradients_reach_every_parameter_of_a_cell_without_dead_ends():
    torch.manual_seed(0)
    network = NasBench201(("nor_conv_3x3", "nor_conv_1x1") * 3, 4)
    network(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
