"""Teachers in stacks compute the same for the images of all pools as one by one."""

import copy

import pytest
import torch

from datafree.inversion.losses import BatchNormMatch
from datafree.tasks.pools import Pool
from datafree.tasks.reliability import teacher_reliability
from datafree.tasks.shared_images import equal_parts, in_stacks, one_by_one
from datafree.zoo.backbones import batch_norm_layers
from tests.conftest import in_float64, patterned, untrained_teacher

KINDS = [("conv4", 3, 32, 3), ("resnet8", 2, 32, 3), ("conv4", 5, 32, 3), ("conv4", 4, 16, 1), ("conv4", 2, 32, 3)]
OWN = (7, 5, 4, 6, 3)  # images of each teacher's own pool


@pytest.fixture(scope="module")
def mixed():
    """Teachers of two architectures and two input shapes, in float64."""
    made = [
        untrained_teacher(
            f"t{number}", tuple("abcdef"[:classes]), number, architecture=name, size=size, channels=channels, mean=0.3 + number / 9
        )
        for number, (name, classes, size, channels) in enumerate(KINDS)
    ]
    return [in_float64(teacher) for teacher in made]


def images(count, size=32, seed=0):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


SHARED = [images(6, seed=1), images(6, seed=2), images(4, seed=3), images(6, 24, seed=4), images(6, 24, seed=5)]


@pytest.mark.parametrize("rows", [1, 12, 10_000], ids=["one pool and teacher per pass", "two pools", "one pass per architecture"])
def test_stacks_compute_what_each_teacher_computes(rows, mixed):
    own = [images(count, seed=10 + count) for count in OWN]
    stacked = in_stacks(mixed, SHARED, own, rows)
    for single, together in zip(one_by_one(mixed, SHARED, own, "cpu"), stacked, strict=True):
        for name in ("features", "logits", "own_features", "own_logits"):
            assert getattr(single, name).dtype == torch.float64
            torch.testing.assert_close(getattr(together, name), getattr(single, name), rtol=1e-9, atol=1e-9)
        assert together.distances == pytest.approx(single.distances, rel=1e-9)
        assert len(together.distances) == 5


def test_distances_are_those_of_each_pool(mixed):
    computed = in_stacks(mixed, SHARED, SHARED, rows=10_000)
    for teacher, each in zip(mixed, computed, strict=True):
        for number, pool in enumerate(SHARED):
            with BatchNormMatch(teacher.network) as match:
                teacher.network(teacher.normalise(pool))
                assert each.distances[number] == pytest.approx(match.distance().item(), rel=1e-9)


def test_a_teacher_without_batch_norm_has_no_distances(mixed):
    plain = copy.deepcopy(mixed[0])
    backbone = plain.network.backbone
    for name, module in list(backbone.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            backbone.set_submodule(name, torch.nn.Identity())
    assert not batch_norm_layers(plain.network)
    for computed in (in_stacks([plain, plain], SHARED, SHARED[:2], 100), one_by_one([plain, plain], SHARED, SHARED[:2], "cpu")):
        assert [each.distances for each in computed] == [[], []]


def test_parts_are_of_equal_pools_and_at_most_the_size():
    assert [tuple(part.shape[:2]) for part in equal_parts(SHARED, 12)] == [(2, 6), (1, 4), (2, 6)]
    assert [tuple(part.shape[:2]) for part in equal_parts(SHARED, 2)] == [(1, 6), (1, 6), (1, 4), (1, 6), (1, 6)]
    assert torch.equal(torch.cat([part.flatten() for part in equal_parts(SHARED, 12)]), torch.cat([pool.flatten() for pool in SHARED]))


def test_the_reliability_of_stacks_is_that_of_single_teachers(mixed):
    pools = []
    for number, teacher in enumerate(mixed):
        recovered, labels = patterned(len(teacher.classes), 20, 32, seed=20 + number)
        pools.append(Pool(recovered, labels, torch.empty(0), teacher.classes))
    single, together = (teacher_reliability(pools, mixed, seed=0, together=flag) for flag in (False, True))
    for first, second in zip(single, together, strict=True):
        assert first.name == second.name
        for name in ("weight", "agreement", "compactness", "recovery", "statistics_distance", "score"):
            assert getattr(second, name) == pytest.approx(getattr(first, name), rel=1e-9, abs=1e-9)
    assert len({result.agreement for result in single}) == len({result.compactness for result in single}) == 5
