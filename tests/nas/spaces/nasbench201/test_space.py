from __future__ import annotations

import functools
import subprocess
import sys
from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from datafree.nas.spaces.nasbench201 import space
from datafree.nas.spaces.nasbench201.genotype import EDGES, NODES, OPERATIONS, Genotype
from datafree.nas.spaces.nasbench201.network import NasBench201
from datafree.nas.spaces.nasbench201.space import NasBench201Space

SPACE = NasBench201Space(16, 1, 32)
genotypes = st.tuples(*[st.sampled_from(OPERATIONS)] * len(EDGES))


def test_enumeration_is_complete():
    cells = space.enumerate_all()
    assert len(cells) == len(set(cells)) == 5**6
    assert tuple(SPACE.enumerate()) == cells
    assert SPACE.count() == len(cells)


def test_samples_cover_all_operations_evenly():
    random = Random(0)
    counts = Counter(name for _ in range(2000) for name in SPACE.sample(random))
    assert set(counts) == set(OPERATIONS)
    assert all(abs(count - 2400) < 300 for count in counts.values())


@given(genotypes, st.floats(0, 1), st.integers(0, 1000))
def test_a_mutation_belongs_to_the_space(genotype, probability, seed):
    assert SPACE.mutate(genotype, probability, Random(seed)) in set(space.enumerate_all())


@given(genotypes, st.integers(0, 1000))
def test_mutation_changes_nothing_at_zero_and_everything_at_one(genotype, seed):
    assert SPACE.mutate(genotype, 0, Random(seed)) == genotype
    assert all(a != b for a, b in zip(SPACE.mutate(genotype, 1, Random(seed)), genotype, strict=True))


@given(genotypes, genotypes, st.integers(0, 1000))
def test_crossover_takes_every_operation_from_a_parent(first, second, seed):
    child = SPACE.cross_over(first, second, Random(seed))
    assert all(name in pair for name, pair in zip(child, zip(first, second, strict=True), strict=True))


def test_crossover_uses_both_parents():
    random = Random(0)
    children = {SPACE.cross_over(("none",) * 6, ("skip_connect",) * 6, random) for _ in range(1000)}
    assert len(children) == 2**6


def test_the_benchmark_counts_6466_distinct_cells():
    assert len({space.canonical(genotype) for genotype in space.enumerate_all()}) == 6466


@settings(max_examples=25)
@given(genotypes, st.data())
def test_cells_with_equal_canonical_form_compute_the_same_function(genotype, data):
    """Weights are tied by operation: then two cells compute the same function exactly if their graphs are equal."""
    twins = _cells_by_canonical()[space.canonical(genotype)]
    twin = data.draw(st.sampled_from(twins))
    torch.testing.assert_close(_tied(genotype), _tied(twin))


def test_different_chains_have_different_canonical_forms():
    forward = ("nor_conv_1x1", "none", "nor_conv_3x3", "none", "none", "skip_connect")
    backward = ("nor_conv_3x3", "none", "nor_conv_1x1", "none", "none", "skip_connect")
    assert space.canonical(forward) != space.canonical(backward)


def test_the_order_of_parallel_edges_does_not_matter():
    assert space.canonical(("nor_conv_3x3", "none", "none", "nor_conv_1x1", "skip_connect", "none")) == space.canonical(
        ("nor_conv_1x1", "none", "none", "nor_conv_3x3", "skip_connect", "none")
    )


@given(genotypes)
def test_a_cell_is_connected_if_some_path_has_no_none(genotype):
    names = dict(zip(EDGES, genotype, strict=True))
    paths = [((0, 3),), ((0, 1), (1, 3)), ((0, 2), (2, 3)), ((0, 1), (1, 2), (2, 3))]
    assert space.is_connected(genotype) == any(all(names[edge] != "none" for edge in path) for path in paths)


@given(genotypes)
def test_trimming_keeps_exactly_the_edges_of_complete_paths(genotype):
    names = dict(zip(EDGES, genotype, strict=True))
    paths = [((0, 3),), ((0, 1), (1, 3)), ((0, 2), (2, 3)), ((0, 1), (1, 2), (2, 3))]
    on_path = {edge for path in paths if all(names[e] != "none" for e in path) for edge in path}
    assert space.trim(genotype) == tuple(names[edge] if edge in on_path else "none" for edge in EDGES)


@settings(max_examples=12)
@given(genotypes, st.sampled_from([4, 6]), st.integers(1, 2), st.sampled_from([16, 19]), st.integers(0, 5), st.sampled_from([1, 3]))
def test_costs_equal_those_of_the_built_network(genotype, channels, cells, size, classes, image_channels):
    backbone = NasBench201(genotype, channels, cells, image_channels)
    network = nn.Sequential(backbone, nn.Linear(backbone.feature_size, classes)) if classes else backbone
    assert space.parameters(genotype, channels, cells, classes, image_channels) == sum(p.numel() for p in network.parameters())
    counted = _count_macs(network, torch.zeros(1, image_channels, size, size))
    assert space.macs(genotype, channels, cells, size, classes, image_channels) == counted


def test_the_published_parameter_formula():
    """0.0733 M + 0.2430 M per conv3x3 + 0.0280 M per conv1x1, for width 16, five cells per stage and ten classes."""
    for genotype in Random(0).sample(space.enumerate_all(), 200):
        published = 0.0733 + 0.2430 * genotype.count("nor_conv_3x3") + 0.0280 * genotype.count("nor_conv_1x1")
        assert space.parameters(genotype, 16, 5, 10) / 1e6 == pytest.approx(published, abs=5e-4)


def test_the_published_multiply_adds_of_the_most_expensive_and_cheapest_cells():
    assert space.macs(("nor_conv_3x3",) * 6, 16, 5, 32, 10) / 1e6 == pytest.approx(220.12, abs=0.005)
    assert space.macs(("skip_connect",) * 6, 16, 5, 32, 10) / 1e6 == pytest.approx(7.78, abs=0.005)


def test_the_space_counts_the_backbone_without_a_head():
    for genotype in Random(1).sample(space.enumerate_all(), 20):
        assert SPACE.macs(genotype) == space.macs(genotype, 16, 1, 32, 0)
        assert SPACE.parameters(genotype) == space.parameters(genotype, 16, 1, 0)


@given(genotypes)
def test_a_cell_is_degenerate_if_no_convolution_lies_between_input_and_output(genotype):
    assert SPACE.is_degenerate(genotype) == (not any("conv" in name for name in space.trim(genotype)))


def test_the_most_probable_cell_is_connected_and_has_the_most_probable_operations():
    goal = ("nor_conv_3x3", "none", "skip_connect", "none", "avg_pool_3x3", "nor_conv_1x1")
    likely = [{name: 0.6 if name == best else 0.1 for name in OPERATIONS} for best in goal]
    assert SPACE.most_probable(likely) == space.trim(goal)
    nothing = [{name: 0.6 if name == "none" else 0.1 for name in OPERATIONS} for _ in EDGES]
    assert space.is_connected(SPACE.most_probable(nothing))


def test_spaces_are_imported_and_costs_counted_without_pytorch():
    code = (
        "import sys; from datafree.nas import candidates, spaces; "
        "[kind(16, 1, 32).macs(kind(16, 1, 32).cheapest()) for kind in spaces.SPACES.values()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@functools.cache
def _cells_by_canonical() -> dict[str, list[Genotype]]:
    twins: dict[str, list[Genotype]] = {}
    for genotype in space.enumerate_all():
        twins.setdefault(space.canonical(genotype), []).append(genotype)
    return twins


def _tied(genotype: Genotype) -> torch.Tensor:
    """The output of a cell whose operations share weights over edges: x → M tanh(x), with a random matrix M for each operation."""
    rng = torch.Generator().manual_seed(0)
    matrices = {name: torch.randn(5, 5, generator=rng, dtype=torch.float64) for name in OPERATIONS}
    nodes = [torch.randn(5, generator=rng, dtype=torch.float64)]
    for target in range(1, NODES):
        total = torch.zeros(5, dtype=torch.float64)
        for (source, end), name in zip(EDGES, genotype, strict=True):
            if end == target and name != "none":
                total = total + (nodes[source] if name == "skip_connect" else matrices[name] @ nodes[source].tanh())
        nodes.append(total)
    return nodes[-1]


def _count_macs(network: nn.Module, images: torch.Tensor) -> int:
    total = 0

    def count(module, _, output):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    handles = [module.register_forward_hook(count) for module in network.modules()]
    network.eval()(images)
    for handle in handles:
        handle.remove()
    return total
