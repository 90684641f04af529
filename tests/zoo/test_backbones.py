import pytest
import torch

from datafree.config import BackboneConfig
from datafree.config import schema as config_schema
from datafree.errors import UserError
from datafree.zoo.backbones import BACKBONES, Classifier, Normalise, build, parameter_count
from datafree.zoo.networks import multiply_adds

CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"


def make(name, *, width=8, channels=3, size=32, seed=0):
    return build(BackboneConfig(name, width, CELL if name == "nasbench201" else ""), channels, size, seed)


@pytest.fixture(params=BACKBONES)
def name(request):
    return request.param


# ---- every backbone, because it is registered -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 16), (3, 48)])
def test_features_have_the_size_that_is_claimed(name, channels, size):
    backbone = make(name, channels=channels, size=size)
    features = backbone(torch.randn(5, channels, size, size))
    assert features.shape == (5, backbone.feature_size)
    assert features.dtype == torch.float32


def test_a_seed_decides_every_weight_and_the_global_state_none(name):
    torch.manual_seed(1)
    first = make(name, seed=3).state_dict()
    torch.manual_seed(2)
    second, other = make(name, seed=3).state_dict(), make(name, seed=4).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_gradient_reaches_every_parameter(name):
    backbone = make(name)
    backbone(torch.randn(4, 3, 32, 32)).square().sum().backward()
    # The cell holds a `none` edge, which has no parameters; everything else takes part.
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in backbone.parameters())


def test_in_evaluation_mode_an_image_does_not_see_its_neighbours(name):
    backbone = make(name).eval()
    images = torch.randn(6, 3, 32, 32)
    alone = torch.cat([backbone(image[None]) for image in images])
    assert torch.allclose(backbone(images), alone, atol=1e-5)
    assert torch.equal(backbone(images), backbone(images))


def test_its_cost_is_that_of_its_convolutions(name):
    backbone = make(name)
    counted = []

    def count(module, _, output):
        if isinstance(module, torch.nn.Conv2d):
            counted.append(output[0].numel() * module.weight[0].numel())

    handles = [module.register_forward_hook(count) for module in backbone.modules()]
    backbone.eval()(torch.zeros(1, 3, 32, 32))
    for handle in handles:
        handle.remove()
    assert multiply_adds(backbone, (3, 32, 32)) == sum(counted) > 0
    assert parameter_count(backbone) == sum(value.numel() for value in backbone.parameters()) > 0


def test_wider_is_larger(name):
    assert parameter_count(make(name, width=16)) > parameter_count(make(name, width=8))
    assert make(name, width=16).feature_size == 2 * make(name, width=8).feature_size


def test_a_state_dict_moves_everything_over(name):
    first, second = make(name, seed=1), make(name, seed=2)
    first(torch.randn(4, 3, 32, 32))
    second.load_state_dict(first.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(first.eval()(images), second.eval()(images))


# ---- single ones ------------------------------------------------------------------------------------------------------------------------


def test_the_names_that_the_configuration_allows_are_those_that_can_be_built():
    assert tuple(BACKBONES) == config_schema.BACKBONES


def test_another_name_is_refused():
    with pytest.raises(UserError, match="^backbone: got 'vgg'; allowed: conv4, "):
        build(BackboneConfig("vgg"), 3, 32, 0)


@pytest.mark.parametrize(("size", "expected"), [(32, 8 * 4), (16, 8), (84, 8 * 25)])
def test_conv4_flattens_the_map_after_four_halvings(size, expected):
    for name in ("conv4", "conv4_strided"):
        assert make(name, size=size).feature_size == expected


def test_conv4_needs_an_image_that_can_be_halved_four_times():
    with pytest.raises(ValueError, match="image_size: got 15"):
        make("conv4", size=15)


def test_conv4_is_the_literatures_network():
    shapes = [tuple(value.shape) for value in make("conv4", width=64).parameters()]
    block = [(64, 64, 3, 3), (64,), (64,), (64,)]
    assert shapes == [(64, 3, 3, 3), (64,), (64,), (64,)] + 3 * block
    assert parameter_count(make("conv4", width=64)) == 113_088


def test_the_strided_stem_is_a_quarter_of_the_first_block_and_keeps_the_weights():
    plain, strided = make("conv4", width=32), make("conv4_strided", width=32)
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in strided.state_dict().items()}
    saved = multiply_adds(plain, (3, 32, 32)) - multiply_adds(strided, (3, 32, 32))
    assert saved == 0.75 * 32 * 32 * 32 * 27
    images = torch.randn(2, 3, 32, 32)
    strided.load_state_dict(plain.state_dict())
    assert not torch.equal(plain.eval()(images), strided.eval()(images))


def test_resnet8_widens_while_it_shrinks():
    backbone = make("resnet8", width=8)
    x = backbone.stem(torch.zeros(1, 3, 32, 32))
    shapes = [tuple(x.shape[1:])]
    for block in backbone.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(8, 32, 32), (8, 32, 32), (16, 16, 16), (32, 8, 8)]
    assert backbone.feature_size == 32
    assert sum(isinstance(module, torch.nn.Conv2d) for module in backbone.modules()) == 1 + 6 + 2  # two projections


def test_a_classifier_is_a_linear_map_of_features():
    network = Classifier(make("conv4"), 7).eval()
    images = torch.randn(3, 3, 32, 32)
    expected = network.backbone(images) @ network.head.weight.T + network.head.bias
    assert torch.allclose(network(images), expected, atol=1e-6)


def test_normalising_is_per_channel_and_of_images_in_0_to_255():
    normalise = Normalise([0.5, 0.25, 0.0], [0.5, 0.25, 1.0])
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    expected = (torch.tensor([0, 128, 255]) / 255 - torch.tensor([[0.5], [0.25], [0.0]])) / torch.tensor([[0.5], [0.25], [1.0]])
    assert torch.allclose(normalise(images)[0, :, 0], expected)
    assert torch.equal(normalise(images), normalise(images.float()))
    assert list(normalise.state_dict()) == []  # the card holds it
