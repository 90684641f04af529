from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from datafree.nas.spaces.nasbench201.genotype import EDGES, OPERATIONS, Genotype
from datafree.nas.spaces.nasbench201.network import NasBench201
from datafree.nas.spaces.nasbench201.space import NasBench201Space
from datafree.nas.supernet import Supernet, recalibrate

genotypes = st.tuples(*[st.sampled_from(OPERATIONS)] * len(EDGES))
MIXED = ("nor_conv_3x3", "skip_connect", "nor_conv_1x1", "none", "avg_pool_3x3", "nor_conv_3x3")
WIDTH, CELLS = 4, 2


def _supernet(seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    supernet = Supernet(NasBench201Space(WIDTH, CELLS, 16).supernet(), [3, 5])
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            # As after training: statistics and affine parameters differ from their initial values.
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return supernet


def _stand_alone(supernet: Supernet, genotype: Genotype) -> NasBench201:
    """The network of one cell with its weights in the supernet."""
    network = NasBench201(genotype, WIDTH, CELLS)
    shared = supernet.backbone.state_dict()
    weights = {}
    for key in network.state_dict():
        parts = key.split(".")
        if "edges" in parts:
            edge = parts.index("edges") + 1
            parts.insert(edge + 1, genotype[int(parts[edge])])
        weights[key] = shared[".".join(parts)]
    network.load_state_dict(weights)
    return network


@settings(max_examples=10)
@given(genotypes, st.booleans())
def test_a_path_equals_the_stand_alone_network_with_the_same_weights(genotype, training):
    supernet = _supernet()
    network = _stand_alone(supernet, genotype).train(training)
    images = torch.randn(3, 3, 16, 16)
    features = supernet.train(training).backbone(images, genotype)
    torch.testing.assert_close(features, network(images))


def test_logits_come_from_the_head_of_each_images_teacher():
    supernet = _supernet().eval()
    images = torch.randn(4, 3, 16, 16)
    logits = supernet(images, MIXED, torch.tensor([0, 1, 0, 1]))
    by_head = supernet.heads(supernet.backbone(images, MIXED), [0, 1])
    torch.testing.assert_close(logits, torch.stack([by_head[0, 0], by_head[1, 1], by_head[2, 0], by_head[3, 1]]))


def test_only_the_operations_on_the_path_are_computed():
    supernet = _supernet()
    computed = set()
    for number, cell in enumerate(cell for stage in supernet.backbone.stages for cell in stage):
        for edge, choices in enumerate(cell.edges):
            for name, module in choices.items():
                module.register_forward_hook(lambda *_, key=(number, edge, name): computed.add(key))
    supernet(torch.randn(2, 3, 16, 16), MIXED, torch.tensor([0, 1]))
    assert {(edge, name) for _, edge, name in computed} == {(edge, name) for edge, name in enumerate(MIXED) if name != "none"}
    assert len(computed) == 3 * CELLS * 5


def test_recalibration_changes_only_running_statistics():
    supernet = _supernet()
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    recalibrate(supernet, MIXED, [torch.randn(8, 3, 16, 16) for _ in range(3)])
    changed = {name.rsplit(".", 1)[1] for name, value in supernet.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    assert not supernet.training
    assert {module.momentum for module in supernet.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}
    assert all(parameter.grad is None for parameter in supernet.parameters())


def test_recalibrated_statistics_are_the_mean_over_the_batches():
    supernet = _supernet()
    batches = [torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    recalibrate(supernet, MIXED, batches)
    first = supernet.backbone.stem[1]
    outputs = [supernet.backbone.stem[0](images).detach() for images in batches]
    torch.testing.assert_close(first.running_mean, torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0))
    torch.testing.assert_close(first.running_var, torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0))


def test_recalibration_does_not_depend_on_earlier_recalibrations():
    images = torch.randn(8, 3, 16, 16)
    fresh, used = _supernet(), _supernet()
    recalibrate(used, ("nor_conv_1x1",) * 6, [torch.randn(8, 3, 16, 16)])
    for supernet in (fresh, used):
        recalibrate(supernet, MIXED, [images])
    assert torch.equal(fresh.backbone(images, MIXED), used.backbone(images, MIXED))


@pytest.mark.parametrize("genotype", [MIXED, ("skip_connect",) * 6])
def test_gradients_reach_only_the_path(genotype):
    supernet = _supernet()
    supernet.backbone(torch.randn(4, 3, 16, 16), genotype).square().sum().backward()
    for name, parameter in supernet.backbone.named_parameters():
        parts = name.split(".")
        off_path = "edges" in parts and genotype[int(parts[parts.index("edges") + 1])] != parts[parts.index("edges") + 2]
        assert (parameter.grad is None) == off_path, name


@pytest.mark.parametrize("training", [True, False])
def test_a_mixture_with_all_weight_on_one_option_equals_that_path(training):
    supernet, images = _supernet().train(training), torch.randn(3, 3, 16, 16)
    certain = [{name: torch.tensor(float(name == chosen)) for name in OPERATIONS} for chosen in MIXED]
    torch.testing.assert_close(supernet.backbone(images, certain), supernet.backbone(images, MIXED))
