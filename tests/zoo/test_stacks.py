import copy

import pytest
import torch
from torch.nn import functional as F

from datafree.config import BackboneConfig
from datafree.zoo.backbones import BACKBONES, Classifier, batch_norm_layers, build
from datafree.zoo.hooks import LayerHooks
from datafree.zoo.logits import ABSENT
from datafree.zoo.stacks import NetworkStack, stackable
from datafree.zoo.teachers import freeze

pytestmark = pytest.mark.usefixtures("timm")
OF_LIBRARY = {"torchvision/*": "torchvision/shufflenet_v2_x0_5", "timm/*": "timm/tiny"}
CLASSES = [3, 5, 2]


def classifier(name, classes, seed, *, width=8, size=32, channels=3):
    """Frozen, in float64, with running statistics of its own."""
    backbone = build(BackboneConfig(OF_LIBRARY.get(name, name), width), channels, size, seed)
    network = Classifier(backbone, classes).double()
    rng = torch.Generator().manual_seed(seed)
    for layer in batch_norm_layers(network):
        layer.running_mean.normal_(0, 0.3, generator=rng)
        layer.running_var.uniform_(0.5, 2, generator=rng)
    return freeze(network)


def three(name="conv4", **kwargs):
    return [classifier(name, classes, seed, **kwargs) for seed, classes in enumerate(CLASSES)]


def images(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---- every registered backbone ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=BACKBONES)
def name(request):
    return request.param


def test_a_stack_equals_its_networks_one_by_one_with_padded_classes_of_probability_zero(name):
    networks, inputs = three(name), images(3, 4, 3, 32, 32)
    stack = NetworkStack.of(networks)
    logits = stack(inputs)
    assert logits.shape == (3, 4, 5)
    for network, own, part in zip(networks, logits, inputs, strict=True):
        classes = network.head.out_features
        assert torch.allclose(own[:, :classes], network(part), rtol=1e-10, atol=1e-10)
        assert (own[:, classes:] == ABSENT).all()
        assert (own.softmax(1)[:, classes:] == 0).all()
    assert torch.allclose(stack.features(inputs)[1], networks[1].backbone(inputs[1]), rtol=1e-10, atol=1e-10)


def test_a_stack_of_one_network_takes_any_number_of_batches(name):
    (network, *_), inputs = three(name), images(2, 4, 3, 32, 32)
    stack = NetworkStack.of([network])
    for batches in (inputs, inputs[:1], inputs[0]):
        logits = stack(batches)
        expected = torch.stack([network(batch) for batch in batches.reshape(-1, 4, 3, 32, 32)])
        assert torch.allclose(logits, expected, rtol=1e-10, atol=1e-10)


def test_the_gradient_of_the_inputs_is_that_of_each_network(name):
    networks, inputs = three(name), images(3, 2, 3, 32, 32)
    target = torch.tensor([1, 0])
    together = inputs.clone().requires_grad_()
    F.cross_entropy(NetworkStack.of(networks)(together).flatten(0, 1), target.repeat(3), reduction="sum").backward()
    for network, part, gradient in zip(networks, inputs, together.grad, strict=True):
        alone = part.clone().requires_grad_()
        F.cross_entropy(network(alone), target, reduction="sum").backward()
        assert alone.grad.abs().max() > 0
        assert torch.allclose(gradient, alone.grad, rtol=1e-8, atol=1e-10)


def test_a_stack_does_not_change_its_networks(name, state_of, assert_same_state):
    networks = three(name)
    before = [state_of(network) for network in networks]
    NetworkStack.of(networks)(images(3, 2, 3, 32, 32))
    for network, state in zip(networks, before, strict=True):
        assert_same_state(state_of(network), state)


def test_classifiers_that_differ_only_in_weights_and_heads_are_stackable(name):
    wider = classifier(name, 3, 0, width=16)
    same_width = str(wider.backbone) == str(classifier(name, 3, 0).backbone)  # models of a library have one width
    assert stackable([*three(name), wider]) == ([[0, 1, 2, 3]] if same_width else [[0, 1, 2], [3]])


# ---- use --------------------------------------------------------------------------------------------------------------------------------


def test_one_batch_can_be_shared_by_all_networks():
    stack, batch = NetworkStack.of(three()), images(4, 3, 32, 32)
    assert torch.allclose(stack(batch), stack(batch.expand(3, -1, -1, -1, -1)), rtol=1e-10, atol=1e-10)


def test_selected_networks_in_any_order_and_repeatedly():
    networks, batch = three(), images(4, 3, 32, 32)
    stack = NetworkStack.of(networks)
    assert len(stack) == 3
    selected = stack.select(torch.tensor([2, 0, 2]))
    assert len(selected) == 3
    assert torch.allclose(selected(batch), stack(batch)[[2, 0, 2]], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_other_precisions_have_finite_gradients_and_logits_of_at_least_float32(dtype, tolerance):
    networks, batch = three(), images(4, 3, 32, 32)
    expected = NetworkStack.of(networks)(batch)
    inputs = batch.to(dtype).requires_grad_()
    logits = NetworkStack.of([copy.deepcopy(network).to(dtype) for network in networks])(inputs)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits.double(), expected, atol=tolerance)
    F.cross_entropy(logits.flatten(0, 1), torch.zeros(12, dtype=torch.int64)).backward()
    assert inputs.grad.isfinite().all()
    assert inputs.grad.abs().max() > 0


def test_autocast_computes_logits_of_float32():
    networks, batch = [network.float() for network in three()], images(4, 3, 32, 32).float()
    stack, seen = NetworkStack.of(networks), []
    for layer in stack.template.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        logits = stack(batch)
        single = torch.stack([F.pad(network(batch).float(), (0, 5 - network.head.out_features), value=ABSENT) for network in networks])
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}  # autocast has no effect under vmap
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, single, atol=0.05)
    assert torch.allclose(logits, stack(batch), atol=0.2)
    assert seen[-1] == (torch.float32, torch.float32)


def test_the_inputs_of_batch_norm_layers_are_observed_for_every_network():
    networks, inputs = three("resnet10"), images(3, 4, 3, 32, 32)

    def shift(layer, layer_inputs):
        return layer_inputs.mean((0, 2, 3)) - layer.running_mean

    stack = NetworkStack.of(networks, shift)
    features, observed = stack.observed(inputs)
    assert torch.allclose(features, NetworkStack.of(networks).features(inputs))
    assert len(observed) == len(batch_norm_layers(networks[0]))
    for place, (network, part) in enumerate(zip(networks, inputs, strict=True)):
        kept = []
        with LayerHooks(batch_norm_layers(network), lambda *seen: kept.append(shift(*seen))):  # noqa: B023
            network(part)
        for of_stack, single in zip(observed, kept, strict=True):
            assert torch.allclose(of_stack[place], single, rtol=1e-10)


def test_a_failed_pass_leaves_nothing_to_the_next():
    stack = NetworkStack.of(three(), lambda layer, inputs: inputs.mean())
    with pytest.raises(RuntimeError):
        stack.observed(images(3, 4, 3, 8, 8))  # too small for the last pooling
    assert not stack.seen  # it would keep the memory of the pass
    expected = len(batch_norm_layers(stack.template))
    assert [len(stack.observed(images(3, 4, 3, 32, 32))[1]) for _ in range(2)] == [expected] * 2


@pytest.mark.parametrize(
    "other",
    [
        classifier("conv4_strided", 3, 0),
        classifier("conv4", 3, 0, channels=1),
        classifier("conv4", 3, 0, size=34),  # the same tensors
        classifier("conv4", 3, 0).float(),
    ],
    ids=["architecture", "channels", "image size", "dtype"],
)
def test_networks_that_cannot_be_stacked_are_in_other_groups_and_refused(other):
    networks = three()
    assert stackable([networks[0], other, *networks[1:]]) == [[0, 2, 3], [1]]
    with pytest.raises(ValueError, match="expected networks of one architecture, got 2 architectures"):
        NetworkStack.of([*networks, other])


def test_no_networks_are_refused():
    assert stackable([]) == []
    with pytest.raises(ValueError, match="got 0 architectures"):
        NetworkStack.of([])
