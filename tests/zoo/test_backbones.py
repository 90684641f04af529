import re
import sys

import pytest
import torch
from torch import nn

from datafree.config import BackboneConfig
from datafree.config import schema as config_schema
from datafree.errors import UserError
from datafree.zoo.backbones import BACKBONES, Classifier, Normalise, batch_norm_layers, build, fitted, parameter_count
from datafree.zoo.backbones.cifar_resnet import CifarResNet, PlainShortcutBlock
from datafree.zoo.backbones.wide_resnet import PreActivationBlock, WideResNet
from datafree.zoo.hooks import LayerHooks
from datafree.zoo.networks import multiply_adds
from datafree.zoo.torchvision_guard import import_torchvision

pytestmark = pytest.mark.usefixtures("timm")
OF_LIBRARY = {"torchvision/*": "torchvision/shufflenet_v2_x0_5", "timm/*": "timm/tiny"}  # one for all


def make(name, *, width=8, channels=3, size=32, seed=0):
    return build(BackboneConfig(OF_LIBRARY.get(name, name), width), channels, size, seed)


@pytest.fixture(params=BACKBONES)
def name(request):
    return request.param


# ---- every registered backbone ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 28, 32, 45, 84])
def test_features_have_the_declared_size(name, size):
    backbone = make(name, size=size)
    features = backbone(torch.randn(3, 3, size, size))
    assert features.shape == (3, backbone.feature_size)
    assert features.dtype == torch.float32
    assert backbone.input == (3, size, size)


def test_grey_images_are_accepted_or_refused(name):
    if name == "torchvision/*":
        with pytest.raises(UserError, match="^architecture torchvision/.*: got 1 input channels; torchvision's classifiers take 3"):
            make(name, channels=1)
    else:
        assert make(name, channels=1)(torch.randn(2, 1, 32, 32)).shape[0] == 2


def test_its_batch_norm_layers_are_listed(name):
    network = Classifier(make(name), 5)
    layers = batch_norm_layers(network)
    assert len(layers) == sum("running_var" in key for key in network.state_dict()) > 0
    network(torch.randn(4, 3, 32, 32))
    assert all(layer.num_batches_tracked == 1 for layer in layers)


def test_the_seed_determines_every_weight_and_the_global_state_none(name):
    torch.manual_seed(1)
    first = make(name, seed=3).state_dict()
    torch.manual_seed(2)
    second, other = make(name, seed=3).state_dict(), make(name, seed=4).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_gradient_reaches_every_parameter(name):
    backbone = make(name)
    backbone(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in backbone.parameters())


def test_in_evaluation_mode_features_do_not_depend_on_the_other_images(name):
    backbone = make(name).eval()
    images = torch.randn(6, 3, 32, 32)
    alone = torch.cat([backbone(image[None]) for image in images])
    assert torch.allclose(backbone(images), alone, atol=1e-5)
    assert torch.equal(backbone(images), backbone(images))


def test_its_cost_is_that_of_its_convolutions(name):
    backbone = make(name)
    counted = []
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    with LayerHooks(convolutions, lambda layer, output: counted.append(output[0].numel() * layer.weight[0].numel()), outputs=True):
        backbone.eval()(torch.zeros(1, 3, 32, 32))
    assert multiply_adds(backbone, (3, 32, 32)) == sum(counted) > 0
    assert parameter_count(backbone) == sum(value.numel() for value in backbone.parameters()) > 0


def test_a_wider_backbone_is_larger_except_for_models_of_a_library(name):
    if config_schema.BACKBONES[name] == 0:
        assert parameter_count(make(name, width=16)) == parameter_count(make(name, width=8))
        return
    assert parameter_count(make(name, width=16)) > parameter_count(make(name, width=8))
    if name != "mobilenetv2":  # its last layer grows only beyond the default width
        assert make(name, width=16).feature_size == 2 * make(name, width=8).feature_size


def test_it_can_be_built_on_the_meta_device(name):
    with torch.device("meta"):
        without_values = make(name)
    backbone = make(name)
    assert {k: v.shape for k, v in without_values.state_dict().items()} == {k: v.shape for k, v in backbone.state_dict().items()}
    assert multiply_adds(without_values, (3, 32, 32)) == multiply_adds(backbone, (3, 32, 32))


def test_a_state_dict_transfers_the_whole_function(name):
    first, second = make(name, seed=1), make(name, seed=2)
    first(torch.randn(4, 3, 32, 32))
    second.load_state_dict(first.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(first.eval()(images), second.eval()(images))


# ---- single backbones -------------------------------------------------------------------------------------------------------------------


def test_the_configuration_allows_exactly_the_backbones_that_can_be_built():
    assert list(BACKBONES) == list(config_schema.BACKBONES)


@pytest.mark.parametrize("name", ["vgg", "conv4/deep", "torchvision", "", "*", "/"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(UserError, match=f"^backbone: got '{re.escape(name)}'; allowed: conv4, "):
        build(BackboneConfig(name), 3, 32, 0)


@pytest.mark.parametrize(("size", "expected"), [(32, 8 * 4), (16, 8), (84, 8 * 25)])
def test_conv4_flattens_the_map_after_four_poolings(size, expected):
    for name in ("conv4", "conv4_strided"):
        assert make(name, size=size).feature_size == expected


def test_conv4_refuses_images_below_16_pixels():
    with pytest.raises(UserError, match="architecture conv4: got images of 15 pixels; four poolings need at least 16"):
        make("conv4", size=15)


def test_conv4_has_the_layers_of_the_literature():
    shapes = [tuple(value.shape) for value in make("conv4", width=64).parameters()]
    block = [(64, 64, 3, 3), (64,), (64,), (64,)]
    assert shapes == [(64, 3, 3, 3), (64,), (64,), (64,)] + 3 * block
    assert parameter_count(make("conv4", width=64)) == 113_088


def test_the_strided_stem_costs_a_quarter_of_the_first_block_and_has_the_same_weights():
    plain, strided = make("conv4", width=32), make("conv4_strided", width=32)
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in strided.state_dict().items()}
    saved = multiply_adds(plain, (3, 32, 32)) - multiply_adds(strided, (3, 32, 32))
    assert saved == 0.75 * 32 * 32 * 32 * 27
    images = torch.randn(2, 3, 32, 32)
    strided.load_state_dict(plain.state_dict())
    assert not torch.equal(plain.eval()(images), strided.eval()(images))


def test_resnet8_doubles_the_width_when_it_halves_the_resolution():
    backbone = make("resnet8", width=8)
    x = backbone.stem(torch.zeros(1, 3, 32, 32))
    shapes = [tuple(x.shape[1:])]
    for block in backbone.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(8, 32, 32), (8, 32, 32), (16, 16, 16), (32, 8, 8)]
    assert backbone.feature_size == 32
    assert sum(isinstance(module, torch.nn.Conv2d) for module in backbone.modules()) == 1 + 6 + 2  # two projections


def parameters(name, width, classes=10):
    with torch.device("meta"):
        return parameter_count(Classifier(make(name, width=width), classes))


@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [
        # He et al., CVPR 2016, table 6
        ("resnet20", 16, "0.27"), ("resnet32", 16, "0.46"), ("resnet44", 16, "0.66"), ("resnet56", 16, "0.85"), ("resnet110", 16, "1.7"),
        # Zagoruyko and Komodakis, BMVC 2016, tables 3 to 5; the width is 16k
        ("wrn40", 16, "0.6"), ("wrn40", 32, "2.2"), ("wrn40", 64, "8.9"), ("wrn16", 128, "11.0"), ("wrn16", 160, "17.1"),
        ("resnet12", 64, "12.4"),
    ],
)  # fmt: skip
def test_the_published_numbers_of_parameters(name, width, millions):
    assert f"{parameters(name, width) / 1e6:.{len(millions.partition('.')[2])}f}" == millions


def test_the_shortcut_of_a_cifar_resnet_takes_every_second_pixel_and_pads_with_zeros_on_both_sides():
    block = PlainShortcutBlock(2, 6, 2).eval()
    nn.init.zeros_(block.bn2.weight)
    images = torch.rand(3, 2, 6, 6)
    x = block(images)
    assert x.shape == (3, 6, 3, 3)
    assert torch.equal(x[:, 2:4], images[:, :, ::2, ::2])
    assert x[:, :2].abs().sum() == x[:, 4:].abs().sum() == 0


def test_a_cifar_resnet_keeps_the_published_names_and_depth():
    network = make("resnet20", width=16)
    names = list(network.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer3.2.bn2.running_var"} <= set(names)
    for depth in (20, 32, 44, 56, 110):
        layers = [module for module in make(f"resnet{depth}").modules() if isinstance(module, nn.Conv2d)]
        assert len(layers) + 1 == depth  # the head is the last
    with pytest.raises(ValueError, match="depth: got 21"):
        CifarResNet(21, 16)
    with pytest.raises(ValueError, match="depth: got 18"):
        WideResNet(18, 16)


def test_a_wide_resnet_block_is_pre_activation():
    block = PreActivationBlock(4, 8, 2).eval()
    block.bn1.running_mean.uniform_(-1, 1)
    images = torch.randn(2, 4, 6, 6)
    active = nn.functional.relu(nn.functional.batch_norm(images, block.bn1.running_mean, block.bn1.running_var))
    inner = nn.functional.conv2d(active, block.conv1.weight, stride=2, padding=1)
    inner = nn.functional.relu(nn.functional.batch_norm(inner, block.bn2.running_mean, block.bn2.running_var))
    expected = nn.functional.conv2d(inner, block.conv2.weight, padding=1) + nn.functional.conv2d(active, block.shortcut.weight, stride=2)
    assert torch.allclose(block(images), expected, atol=1e-5)
    plain = PreActivationBlock(4, 4, 1).eval()
    nn.init.zeros_(plain.conv2.weight)
    assert torch.equal(plain(images), images)


# torchvision's models, adapted to small images, are an independent reference.


def agree(ours, theirs, size):
    """Assert that our backbone with the weights of a reference module has the same outputs."""
    with torch.no_grad():
        for buffer in theirs.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand(buffer.shape) / 2)  # running statistics other than the initial ones
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if name in ours.state_dict()})
    images = torch.randn(2, 3, size, size)
    expected = theirs.eval()(images)
    assert torch.allclose(ours.eval()(images), expected, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("depth", "letter"), [(11, "A"), (13, "B"), (16, "D"), (19, "E")])
def test_vgg_computes_the_features_of_torchvision(depth, letter):
    vgg = import_torchvision().models.vgg
    agree(make(f"vgg{depth}", width=64).features, vgg.make_layers(vgg.cfgs[letter], batch_norm=True), 32)


def test_mobilenet_v2_computes_the_features_of_torchvision_with_two_strides_less():
    theirs = import_torchvision().models.get_model("mobilenet_v2").features
    theirs[0][0].stride = theirs[2].conv[1][0].stride = (1, 1)
    agree(make("mobilenetv2", width=32).features, theirs, 32)
    wider, widened = make("mobilenetv2", width=64), import_torchvision().models.get_model("mobilenet_v2", width_mult=2.0).features
    assert {k: v.shape for k, v in wider.features.state_dict().items()} == {k: v.shape for k, v in widened.state_dict().items()}
    narrow = import_torchvision().models.get_model("mobilenet_v2", width_mult=0.75).features
    assert [v.shape for v in make("mobilenetv2", width=24).parameters()] == [v.shape for v in narrow.parameters()]


def test_resnet18_is_that_of_torchvision_with_the_stem_for_small_images():
    theirs = import_torchvision().models.get_model("resnet18")
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = theirs.fc = nn.Identity()
    agree(make("resnet18", width=64), theirs, 28)
    assert len(batch_norm_layers(make("resnet10"))) == 1 + 4 * 2 + 3


def test_resnet12_has_the_widths_of_the_literature():
    backbone = make("resnet12", width=64)
    x, shapes = torch.zeros(1, 3, 84, 84), []
    for layer in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(64, 42, 42), (160, 21, 21), (320, 10, 10), (640, 5, 5)]
    block = backbone.layer1.eval()
    nn.init.zeros_(block.bn3.weight)
    nn.init.ones_(block.downsample[1].bias)
    nn.init.zeros_(block.downsample[1].weight)
    assert torch.equal(block(torch.randn(1, 3, 8, 8)), torch.ones(1, 64, 4, 4))
    nn.init.constant_(block.downsample[1].bias, -1)
    assert torch.allclose(block(torch.randn(1, 3, 8, 8)), torch.full((1, 64, 4, 4), -0.1))


# ---- models of libraries ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "features", "norms", "bias"),
    [
        ("alexnet", 4096, 0, True), ("convnext_tiny", 768, 0, True), ("densenet121", 1024, 121, True),
        ("efficientnet_b0", 1280, 49, True), ("googlenet", 1024, 57, True), ("inception_v3", 2048, 94, True), ("maxvit_t", 512, 34, False),
        ("mnasnet0_5", 1280, 52, True), ("mobilenet_v3_small", 1024, 34, True), ("regnet_y_400mf", 440, 53, True),
        ("resnet18", 512, 20, True), ("swin_t", 768, 0, True), ("vgg11", 4096, 0, True), ("vit_b_16", 768, 0, True),
    ],
)  # fmt: skip
def test_a_model_of_torchvision_without_its_last_layer_is_a_backbone(name, features, norms, bias):
    size = 299 if name == "inception_v3" else 224
    with torch.device("meta"):
        backbone = make(f"torchvision/{name}", size=size)
        network = Classifier(backbone, 7)
    assert (backbone.feature_size, len(batch_norm_layers(network)), network.head.bias is not None) == (features, norms, bias)
    assert network.eval()(torch.zeros(2, 3, size, size, device=next(network.parameters()).device)).shape == (2, 7)
    assert multiply_adds(network, (3, size, size)) > 0


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_features_equal_those_of_the_torchvision_model(name):
    theirs = import_torchvision().models.get_model(name).eval()
    backbone = make(f"torchvision/{name}").eval()
    backbone.model.load_state_dict({key: value for key, value in theirs.state_dict().items() if key in backbone.model.state_dict()})
    images, features = torch.randn(2, 3, 32, 32), []
    last = [module for module in theirs.modules() if isinstance(module, nn.Linear)][-1]
    with LayerHooks([last], lambda _, inputs: features.append(inputs)):
        theirs(images)
    assert torch.allclose(backbone(images), features[0], rtol=1e-4, atol=1e-4 * features[0].abs().max().item())


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("torchvision/resnet19", 32, "architecture: got 'torchvision/resnet19'; allowed after the slash: alexnet, .*resnet18"),
        ("torchvision/", 32, "architecture: got 'torchvision/'; allowed after the slash: alexnet"),
        ("torchvision/fasterrcnn_resnet50_fpn", 32, "architecture: got 'torchvision/fasterrcnn_resnet50_fpn'; allowed"),
        ("torchvision/squeezenet1_1", 32, "architecture torchvision/squeezenet1_1: its last layer is not linear"),
        ("torchvision/vit_b_16", 30, "architecture torchvision/vit_b_16: cannot process images of 30 pixels"),
        ("torchvision/maxvit_t", 30, "architecture torchvision/maxvit_t: cannot process images of 30 pixels"),
        ("timm/absent", 32, "architecture timm/absent: timm cannot build it: Unknown model .absent."),
        ("timm/headless", 32, "architecture timm/headless: its last layer is not a single linear layer"),
    ],
)
def test_a_model_that_cannot_be_built_is_a_one_line_error(name, size, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        make(name, size=size)
    assert "\n" not in str(caught.value)


def test_without_timm_the_error_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    message = r"^architecture timm/tiny: needs the package timm; install it with `pip install 'datafree\[timm\]'`"
    with pytest.raises(UserError, match=message):
        make("timm/*")


# ---- the head and the input -------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("channels", "shape"), [(3, (3, 16, 16)), (3, (1, 20, 20)), (1, (3, 8, 8)), (3, (3, 24, 24))])
def test_images_are_converted_to_the_input_of_a_teacher(channels, shape):
    images = torch.randint(0, 256, (2, channels, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    converted = fitted(images, shape)
    assert list(converted.shape[1:]) == list(shape)
    assert converted.float().mean().item() == pytest.approx(images.float().mean().item(), abs=3)
    grey = torch.full((1, channels, 16, 16), 77, dtype=torch.uint8)
    assert torch.allclose(fitted(grey, shape).float(), torch.tensor(77.0))


def test_images_of_the_right_shape_are_returned_unchanged():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert fitted(images, (3, 8, 8)) is images


def test_normalisation_to_a_shape_is_differentiable():
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    normalised = Normalise([0.5], [0.25], (1, 20, 20))(images * 255)
    assert normalised.shape == (2, 1, 20, 20)
    normalised.sum().backward()
    assert images.grad is not None and (images.grad > 0).all()
