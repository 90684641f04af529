import pytest
import torch
from torch import nn

from datafree.zoo.hooks import LayerHooks


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.fixture
def observed():
    """The list of (layer, tensor) that ``observe`` got, with ``observe`` as its attribute."""

    class Observed(list):
        def observe(self, layer, tensor):
            self.append((layer, tensor))

    return Observed()


IMAGES = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))


def test_inputs_of_the_chosen_layers_are_observed_in_the_order_of_the_pass(network, observed):
    with LayerHooks([network[2], network[0]], observed.observe):
        network(IMAGES)
    assert [layer for layer, _ in observed] == [network[0], network[2]]
    assert torch.equal(observed[0][1], IMAGES)
    assert torch.equal(observed[1][1], network[:2](IMAGES))


def test_outputs_are_observed_and_the_result_does_not_change(network, observed):
    with LayerHooks([network[0], network[1]], observed.observe, outputs=True):
        result = network(IMAGES)
    assert [layer for layer, _ in observed] == [network[0], network[1]]
    assert torch.equal(observed[0][1], network[:1](IMAGES))
    assert torch.equal(observed[1][1], network[:2](IMAGES))
    assert torch.equal(result, network(IMAGES))


@pytest.mark.parametrize("outputs", [False, True])
def test_every_pass_is_observed(network, observed, outputs):
    with LayerHooks(iter([network[0]]), observed.observe, outputs=outputs):
        network(IMAGES)
        network(2 * IMAGES)
    assert len(observed) == 2
    assert not torch.equal(observed[0][1], observed[1][1])


@pytest.mark.parametrize("outputs", [False, True])
def test_the_hooks_are_removed_at_the_end(network, observed, outputs):
    with LayerHooks([network[0]], observed.observe, outputs=outputs):
        pass
    network(IMAGES)
    assert observed == []


@pytest.mark.parametrize("outputs", [False, True])
def test_the_hooks_are_removed_after_an_exception(network, observed, outputs):
    with pytest.raises(ZeroDivisionError), LayerHooks([network[0]], observed.observe, outputs=outputs):
        raise ZeroDivisionError
    network(IMAGES)
    assert observed == []


def test_hooks_can_be_used_again_and_leave_other_hooks_in_place(network, observed):
    calls = []
    network[0].register_forward_hook(lambda *_: calls.append(1))
    hooks = LayerHooks([network[0]], observed.observe)
    for _ in range(2):
        with hooks as entered:
            assert entered is hooks
            network(IMAGES)
    network(IMAGES)
    assert (len(observed), len(calls)) == (2, 3)


def test_the_observed_tensors_carry_gradients(network, observed):
    with LayerHooks([network[2]], observed.observe):
        network(IMAGES)
    observed[0][1].sum().backward()
    assert network[0].weight.grad.abs().sum() > 0
