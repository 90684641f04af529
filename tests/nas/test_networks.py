"""Tests of the stand-alone networks of every registered search space."""

from __future__ import annotations

from random import Random

import pytest
import torch

from datafree.config import BackboneConfig
from datafree.errors import UserError
from datafree.nas.networks import build, stand_alone
from datafree.nas.spaces import SPACES
from datafree.zoo import backbones
from datafree.zoo.backbones import Classifier, batch_norm_layers
from datafree.zoo.networks import multiply_adds


@pytest.fixture(params=SPACES)
def config(request) -> BackboneConfig:
    """A useful random architecture of width 8."""
    space, random = SPACES[request.param](8, 1, 32), Random(1)
    return space.backbone(next(filter(space.is_useful, iter(lambda: space.sample(random), None))))


@pytest.mark.parametrize(("channels", "size"), [(3, 16), (1, 32), (3, 45)])
def test_features_are_float32_of_feature_size(config, channels, size):
    backbone = build(config, channels, size, seed=0)
    features = backbone(torch.randn(3, channels, size, size))
    assert features.shape == (3, backbone.feature_size)
    assert features.dtype == torch.float32
    assert backbone.input == (channels, size, size)


def test_weights_are_a_function_of_the_seed_and_leave_the_global_random_state(config):
    state = torch.get_rng_state()
    first, second, other = (build(config, 3, 32, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_an_architecture_and_its_configuration_give_the_same_network(config):
    space = SPACES[config.name](config.width, config.cells, 32)
    direct = stand_alone(space, space.decode(config.genotype), 5).state_dict()
    assert all(torch.equal(value, direct[key]) for key, value in build(config, 3, 32, 5).state_dict().items())


def test_a_gradient_reaches_every_parameter(config):
    backbone = build(config, 3, 32, seed=0)
    backbone(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in backbone.parameters())


def test_in_evaluation_mode_features_do_not_depend_on_the_batch(config):
    backbone = build(config, 3, 32, seed=0).eval()
    images = torch.randn(6, 3, 32, 32)
    assert torch.allclose(backbone(images), torch.cat([backbone(image[None]) for image in images]), atol=1e-5)


def test_all_batch_norm_layers_are_listed(config):
    network = Classifier(build(config, 3, 32, seed=0), 5)
    assert len(batch_norm_layers(network)) == sum("running_var" in key for key in network.state_dict()) > 0


def test_a_network_is_built_on_the_meta_device(config):
    with torch.device("meta"):
        meta = build(config, 3, 32, seed=0)
    network = build(config, 3, 32, seed=0)
    assert {k: v.shape for k, v in meta.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert multiply_adds(meta, (3, 32, 32)) == multiply_adds(network, (3, 32, 32))


def test_a_malformed_genotype_is_refused(config):
    with pytest.raises(UserError, match="^genotype: "):
        build(BackboneConfig(config.name, 8, "searched"), 3, 32, 0)


def test_other_names_are_backbones_of_the_zoo():
    first, second = build(BackboneConfig("resnet8", 4), 3, 16, 2), backbones.build(BackboneConfig("resnet8", 4), 3, 16, 2)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    assert not SPACES.keys() & backbones.BACKBONES.keys()
    with pytest.raises(UserError, match="^backbone: got 'vgg'; allowed: conv4, "):
        build(BackboneConfig("vgg"), 3, 32, 0)
