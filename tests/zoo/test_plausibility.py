import numpy as np
import pytest
import torch
from torch import nn

from datafree.zoo.manifest import Architecture, Entry
from datafree.zoo.plausibility import logits_and_input_variances, never_trained, never_updated, noise_images, problems, statistics_fit
from datafree.zoo.teachers import empty_network


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def trained_like(architecture="conv4", width=32, size=32, seed=0):
    """A network with changed normalisation layers and with the statistics of its own activations."""
    network = empty_network(Entry(architecture=Architecture(architecture, width), input=[3, size, size]), 5, seed)
    rng = generator(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):  # filters of different norms, as in trained networks
                module.weight.mul_(torch.exp(0.5 * torch.randn(len(module.weight), 1, 1, 1, generator=rng)))
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                module.weight.mul_(1 + 0.1 * torch.randn(module.weight.shape, generator=rng))
                module.bias.add_(0.1 * torch.randn(module.bias.shape, generator=rng))
        network.train()
        for _ in range(40):
            network(torch.randn(16, 3, 1, 1, generator=rng) + torch.randn(16, 3, size, size, generator=rng))
    return network.eval()


def noise(count=48, size=32):
    return noise_images((3, size, size), count) / 127.5 - 1


# ---- noise ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (4, 17, 17)])
def test_noise_images_vary_in_colour_and_contrast(shape):
    images = noise_images(shape, 60)
    assert images.shape == (60, *shape) and images.dtype == torch.uint8
    assert torch.equal(images, noise_images(shape, 60))
    assert not torch.equal(images, noise_images(shape, 60, seed=1))
    assert torch.equal(images[:12], noise_images(shape, 12))
    colours = images.float().mean((2, 3))
    assert (colours.amax(0) - colours.amin(0)).min() > 100
    contrast = images.float().std((2, 3)).mean(1)
    assert contrast.min() < 1 < 40 < contrast.max()


# ---- sound networks have no problem -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "width"), [("conv4", 32), ("conv4_strided", 16), ("resnet20", 16), ("vgg11", 16)])
def test_a_trained_network_has_no_problem(architecture, width):
    network = trained_like(architecture, width)
    lines, logits = problems(network, noise())
    assert lines == []
    assert torch.allclose(logits, network(noise()), atol=1e-5)


def test_a_check_does_not_change_the_network(state_of, assert_same_state):
    network = trained_like("conv4", 16)
    before = state_of(network)
    problems(network, noise(12))
    assert_same_state(state_of(network), before)


def test_the_variance_of_the_input_of_each_batch_norm_layer_is_measured():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten()).eval()
    images = torch.randn(6, 3, 5, 5, generator=generator())
    logits, (variance,) = logits_and_input_variances(network, images)
    inputs = network[0](images)
    assert torch.allclose(variance, inputs.transpose(0, 1).flatten(1).var(1, correction=0), rtol=1e-4)
    assert torch.equal(logits, network(images))


# ---- untrained --------------------------------------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """A classifier with a given normalisation layer, or none."""

    def __init__(self, norm=None):
        super().__init__()
        layers = [nn.Conv2d(3, 64, 3), norm or nn.Identity(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.layers = nn.Sequential(*layers, nn.Linear(64, 40))

    def forward(self, images):
        return self.layers(images)


NORMS = {"BatchNorm": lambda: nn.BatchNorm2d(64), "GroupNorm": lambda: nn.GroupNorm(4, 64), "none": lambda: None}


@pytest.mark.parametrize("norm", NORMS)
def test_a_fresh_network_is_detected_until_one_training_step(norm):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Layers(NORMS[norm]())
    assert "never trained" in never_trained(network)
    assert any("never trained" in line for line in problems(network.eval(), noise(12))[0])
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    network(noise(12)).square().mean().backward()
    optimiser.step()
    assert never_trained(network) == ""


def test_fresh_weights_are_detected_with_any_initialisation():
    network = Layers(nn.BatchNorm2d(64))
    with torch.no_grad():
        nn.init.orthogonal_(network.layers[0].weight)
        nn.init.zeros_(network.layers[1].weight)  # as on residual branches
        network.train()(noise(12))  # updated statistics alone are not training
    assert "scale and shift of all 1 normalisation layers are as initialised" in never_trained(network)
    bare = Layers(None)
    with torch.no_grad():
        for module in (bare.layers[0], bare.layers[-1]):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    assert "distributed as initialised" in never_trained(bare)


def test_layers_without_evidence_are_not_reported():
    assert never_trained(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False))) == ""
    assert never_trained(nn.Identity()) == never_updated(nn.Identity()) == ""


def test_trained_weights_with_fresh_statistics_are_detected():
    network = trained_like()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    (line,) = problems(network, noise())[0]
    assert line == "the running statistics of all 4 BatchNorm layers are as initialised, mean 0 and variance 1"


# ---- statistics of other weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("defect", ["shuffled statistics", "random statistics", "shuffled filters"])
def test_statistics_that_do_not_belong_to_the_weights_are_detected(defect, seed):
    network, rng = trained_like(seed=seed), generator(seed)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and defect == "shuffled filters":
                layer.weight.copy_(layer.weight[torch.randperm(len(layer.weight), generator=rng)])
            if isinstance(layer, nn.BatchNorm2d) and defect == "shuffled statistics":
                order = torch.randperm(len(layer.running_var), generator=rng)
                layer.running_mean.copy_(layer.running_mean[order])
                layer.running_var.copy_(layer.running_var[order])
            if isinstance(layer, nn.BatchNorm2d) and defect == "random statistics":
                layer.running_mean.copy_(torch.randn(layer.running_mean.shape, generator=rng))
                layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=rng) + 0.5)
    (line,) = problems(network, noise())[0]
    assert line.startswith("its BatchNorm statistics do not belong to its weights (correlation ")


def test_the_fit_is_the_mean_correlation_of_logarithms_by_channels():
    rng = generator(5)
    layers, variances, expected = [], [], 0.0
    for channels in (40, 60):
        layer = nn.BatchNorm2d(channels)
        layer.running_var.copy_(torch.rand(channels, generator=rng) + 0.1)
        variance = layer.running_var * torch.exp(torch.randn(channels, generator=rng))
        layers.append(layer)
        variances.append(variance)
        expected += channels / 100 * np.corrcoef(np.log(layer.running_var.numpy()), np.log(variance.numpy()))[0, 1]
    assert statistics_fit(layers, variances) == pytest.approx(expected, abs=1e-5)
    assert statistics_fit(layers, [7 * variance for variance in variances]) == pytest.approx(expected, abs=1e-5)
    assert statistics_fit(layers[:1], variances[:1]) is None  # fewer than 64 channels are not significant
    assert statistics_fit([], []) is None


# ---- logits -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defect", "message"), [("zero", "its logits are the same for every image"), ("overflow", "logits for noise are not finite")]
)
def test_constant_and_infinite_logits_are_detected(defect, message):
    network = trained_like()
    with torch.no_grad():
        if defect == "zero":
            network.head.weight.zero_()
        else:
            network.head.weight.fill_(3e38)
    assert [line for line in problems(network, noise())[0] if message in line]
