"""Tests of every registered search space: genotypes, costs, sampling, supernets."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import nn

from datafree.config import SposConfig
from datafree.errors import UserError
from datafree.nas import spaces
from datafree.nas.candidates import Candidates, Limit
from datafree.nas.evolution import evolve
from datafree.nas.networks import stand_alone
from datafree.nas.search_result import negative_kl
from datafree.nas.space import Space
from datafree.nas.spaces import SPACES
from datafree.nas.spaces.slim_resnet.network import SlimResNet
from datafree.nas.supernet import Supernet, new_supernet
from datafree.zoo.backbones import parameter_count
from datafree.zoo.networks import multiply_adds


@pytest.fixture(params=SPACES)
def space(request) -> Space:
    return small(request.param)


def small(name: str, size: int = 16, channels: int = 3, cells: int = 2) -> Space:
    return SPACES[name](4, cells, size, channels)


def some(space: Space, count: int = 8, seed: int = 0):
    random = Random(seed)
    return [space.sample(random) for _ in range(count)]


def test_the_space_of_an_algorithms_settings():
    assert isinstance(spaces.of(SposConfig(space="mbconv"), 32), SPACES["mbconv"])


def test_decoding_inverts_encoding(space):
    for genotype in [*some(space, 50), space.cheapest()]:
        assert space.decode(space.encode(genotype)) == genotype


@pytest.mark.parametrize("text", ["", "searched", "|none~0|", "k3e3", "k9e9-skip", "w0.5d1", "w0.5d9-w1d1-w1d1", "w0.5d1-w0.3d1-w1d1"])
def test_a_malformed_string_is_refused(space, text):
    with pytest.raises(UserError, match="^genotype: ") as caught:
        space.decode(text)
    assert "\n" not in str(caught.value)


def test_samples_mutations_and_crossovers_belong_to_the_space(space):
    random = Random(1)
    for first, second in zip(some(space, 20), some(space, 20, seed=9), strict=True):
        mutant, child = space.mutate(first, 0.5, random), space.cross_over(first, second, random)
        for genotype in (first, mutant, child):
            assert space.decode(space.encode(genotype)) == genotype
            assert all(option in options for option, options in zip(genotype, space.choices, strict=True))
        assert space.mutate(first, 0.0, random) == first
        other = space.mutate(first, 1.0, random)
        for group in space.groups:
            assert tuple(child[slot] for slot in group) in {tuple(parent[slot] for slot in group) for parent in (first, second)}
            changed = tuple(other[slot] for slot in group)
            assert len(space.values_of(group)) == 1 or changed != tuple(first[slot] for slot in group)


def test_groups_hold_every_slot_once_in_order(space):
    assert [slot for group in space.groups for slot in group] == list(range(len(space.choices)))


def test_evolution_stays_within_the_limit(space):
    limit = Limit("key.max_macs", int(1.5 * space.macs(space.cheapest())), space.macs)
    candidates = Candidates(space, [limit])
    config = SposConfig(population=6, generations=3, parents=3, mutation=0.3)
    measures, _ = evolve(lambda genotype: {"kl": Random(str(genotype)).random()}, negative_kl, candidates, config, 0)
    assert len(measures) > 3
    assert all(space.macs(genotype) <= limit.value and genotype in candidates for genotype in measures)


def test_a_limit_below_the_cheapest_is_refused(space):
    smallest = space.macs(space.cheapest())
    Candidates(space, [Limit("key.max_macs", smallest, space.macs)])
    with pytest.raises(UserError, match=f"key.max_macs: got {smallest - 1}, but the cheapest architecture needs {smallest}"):
        Candidates(space, [Limit("key.max_macs", smallest - 1, space.macs)])


@pytest.mark.parametrize(("size", "channels", "cells"), [(16, 3, 1), (19, 1, 2), (32, 3, 2)])
def test_costs_are_those_of_the_built_network(space, size, channels, cells):
    space = small(space.name, size, channels, cells)
    for genotype in [*some(space, 3, seed=size), space.cheapest()]:
        network = stand_alone(space, genotype, seed=0)
        assert space.parameters(genotype) == parameter_count(network)
        assert space.macs(genotype) == multiply_adds(network, (channels, size, size))


def test_no_sample_is_cheaper_than_the_cheapest(space):
    cheapest = space.cheapest()
    assert space.is_useful(cheapest)
    for genotype in filter(space.is_useful, some(space, 100)):
        assert space.macs(genotype) >= space.macs(cheapest)
        assert space.parameters(genotype) >= space.parameters(cheapest)


def test_the_count_is_the_number_of_architectures(space):
    counts = {"nasbench201": 5**6, "darts": (180 * 7**8) ** 2, "mbconv": 7**4 * 6**2, "slim_resnet": 3**3 * 2**3}
    if space.name in counts:
        assert space.count() == counts[space.name]
    if space.count() < 20_000:
        assert len(set(space.enumerate())) == space.count()


def test_the_most_probable_architecture_of_nearly_certain_options(space):
    for genotype in filter(space.is_useful, some(space, 30)):
        certain = [{o: 0.9 if o == chosen else 0.01 for o in options} for options, chosen in zip(space.choices, genotype, strict=True)]
        assert space.most_probable(certain) == genotype


def test_random_probabilities_give_a_valid_and_useful_architecture(space):
    random = Random(5)
    for _ in range(5):
        genotype = space.most_probable([{option: random.random() for option in options} for options in space.choices])
        assert space.decode(space.encode(genotype)) == genotype
        assert space.is_useful(genotype)


def test_an_architecture_without_weights_in_its_slots_is_degenerate(space):
    assert space.is_degenerate(space.cheapest()) == (space.name != "slim_resnet")
    assert not all(map(space.is_degenerate, some(space)))


def test_an_architecture_is_drawn(space):
    first, second = some(space, 2)
    picture = space.draw(first)
    assert picture.mode == "RGB" and picture.size[0] > 300
    assert space.draw(first).tobytes() == picture.tobytes() != space.draw(second).tobytes()


# ---- the supernet -----------------------------------------------------------------------------------------------------------------------


def _supernet(space: Space) -> Supernet:
    """A supernet whose statistics and affine parameters differ from their initial values."""
    supernet = new_supernet(space, [3], 0, "cpu")
    torch.manual_seed(1)
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    return supernet


def _shared(space: Space, supernet: Supernet, genotype, network: nn.Module) -> dict[str, torch.Tensor]:
    """The supernet's weights of a stand-alone network: those of the chosen option of each slot, and of the first channels."""
    shared, weights = supernet.backbone.state_dict(), {}
    for key, value in network.state_dict().items():
        parts = key.split(".")
        if space.name == "nasbench201" and "edges" in parts:
            place = parts.index("edges") + 1
            parts.insert(place + 1, genotype[int(parts[place])])
        elif space.name == "darts" and "edges" in parts:
            source, target = map(int, parts[3].split("-"))
            edge = sum(range(2, target)) + source
            reduction = supernet.backbone.cells[int(parts[1])].inputs.shape.reduction
            parts[3:4] = [str(edge), genotype[edge + 14 * reduction]]
        elif space.name.startswith("mbconv") and parts[0] == "blocks":
            parts.insert(2, genotype[int(parts[1])])
        tensor = shared[".".join(parts)]
        weights[key] = tensor[tuple(slice(length) for length in value.shape)] if isinstance(network, SlimResNet) else tensor
    return weights


@pytest.mark.parametrize("training", [True, False])
def test_a_path_equals_the_stand_alone_network_with_the_same_weights(space, training):
    supernet, images = _supernet(space), torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for genotype in some(space, 3, seed=2):
        network = stand_alone(space, genotype, seed=0)
        network.load_state_dict(_shared(space, supernet, genotype, network))
        expected = network.train(training)(images)
        features = supernet.train(training).backbone(images, genotype)
        torch.testing.assert_close(features[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-4)
        assert not features[:, expected.shape[1] :].any()


def test_a_mixture_with_all_weight_on_one_path_equals_that_path(space):
    supernet, images = _supernet(space).eval(), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for genotype in some(space, 2, seed=3):
        certain = [
            {option: torch.tensor(float(option == chosen)) for option in options}
            for options, chosen in zip(space.choices, genotype, strict=True)
        ]
        torch.testing.assert_close(supernet.backbone(images, certain), supernet.backbone(images, genotype), rtol=1e-4, atol=1e-4)


def test_the_gradient_reaches_the_weights_of_a_mixture(space):
    supernet = new_supernet(space, [3], 0, "cpu")
    weights = [torch.full((len(options),), 1 / len(options), requires_grad=True) for options in space.choices]
    path = [dict(zip(options, values.unbind(), strict=True)) for options, values in zip(space.choices, weights, strict=True)]
    supernet(torch.randn(4, 3, 16, 16), path, torch.zeros(4, dtype=torch.int64)).square().sum().backward()
    assert all(values.grad is not None and values.grad.isfinite().all() for values in weights)
    assert sum(bool(values.grad.any()) for values in weights) >= len(weights) - 1
