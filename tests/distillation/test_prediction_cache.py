import copy
from dataclasses import replace

import pytest
import torch

from datafree import devices
from datafree.distillation import ensemble as ensembles
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.prediction_cache import PredictionCache, digest, teacher_digest
from datafree.zoo.backbones import Normalise

CPU = torch.device("cpu")


def of(ensemble_teachers, pools, mean=0.3):
    return TeacherEnsemble(ensemble_teachers, pools, Normalise([mean] * 3, [0.7] * 3), CPU, torch.ones(len(ensemble_teachers)))


@pytest.fixture
def cache(monkeypatch):
    """An empty cache of predictions; ``queries`` counts the forward passes of teachers through ``TeacherEnsemble``."""
    cache = PredictionCache()
    cache.queries = 0

    def query(self, views, queried):
        cache.queries += len(queried)
        return real(self, views, queried)

    real = TeacherEnsemble._query
    monkeypatch.setattr(ensembles, "_PREDICTIONS", cache)
    monkeypatch.setattr(TeacherEnsemble, "_query", query)
    return cache


@pytest.fixture
def views(teachers, pools):
    return of(teachers, pools).views(pools[0].images[:6], devices.generator(0, "views"), augment=True)


# ---- predictions ------------------------------------------------------------------------------------------------------------------------


def test_another_ensemble_of_the_same_teachers_does_not_query_them_again(cache, teachers, pools, views):
    first = of(teachers, pools).predict(views, [2, 0])
    copies = [replace(teacher, network=copy.deepcopy(teacher.network)) for teacher in teachers]
    second = of(copies, pools).predict(views.clone(memory_format=torch.preserve_format), [2, 0])
    assert cache.queries == 2
    assert torch.equal(first, second)


def changed_view(teachers, pools, views):
    views = views.clone(memory_format=torch.preserve_format)
    views[-1, -1, -1, -1] += 1e-6
    return of(teachers, pools), views, [0, 1]


def changed_weight(teachers, pools, views):
    network = copy.deepcopy(teachers[1].network)
    network.head.bias.data[-1] += 0.5
    return of([teachers[0], replace(teachers[1], network=network), teachers[2]], pools), views, [0, 1]


def changed_statistics(teachers, pools, views):
    network = copy.deepcopy(teachers[1].network)
    next(buffer for buffer in network.buffers() if buffer.is_floating_point()).add_(0.5)
    return of([teachers[0], replace(teachers[1], network=network), teachers[2]], pools), views, [0, 1]


def changed_normalisation_of_a_teacher(teachers, pools, views):
    normalise = Normalise([0.45] * 3, [0.25] * 3, teachers[1].normalise.shape)
    return of([teachers[0], replace(teachers[1], normalise=normalise), teachers[2]], pools), views, [0, 1]


def changed_normalisation_of_the_learner(teachers, pools, views):
    return of(teachers, pools, mean=0.4), views, [0, 1]


def other_teachers(teachers, pools, views):
    return of(teachers, pools), views, [0, 2]


def another_order(teachers, pools, views):
    return of(teachers, pools), views, [1, 0]


def another_memory_format(teachers, pools, views):
    return of(teachers, pools), views.contiguous(), [0, 1]


CHANGES = [
    changed_view, changed_weight, changed_statistics, changed_normalisation_of_a_teacher, changed_normalisation_of_the_learner,
    other_teachers, another_order, another_memory_format,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_predictions_makes_the_teachers_be_queried_again(change, cache, teachers, pools, views):
    of(teachers, pools).predict(views, [0, 1])
    ensemble, views, queried = change(teachers, pools, views)
    predictions = ensemble.predict(views, queried)
    assert cache.queries == 4
    assert torch.equal(predictions, ensemble._query(views, queried))


def test_another_precision_makes_the_teachers_be_queried_again(cache, teachers, pools, views):
    exact = of(teachers, pools).predict(views, [0])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = of(teachers, pools).predict(views, [0])
    assert cache.queries == 2
    assert not torch.equal(exact, rounded)


# ---- the cache --------------------------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_tensors_are_dropped_beyond_the_largest_size():
    cache, computed = PredictionCache(largest=64), []

    def get(key):
        return cache.get(key, lambda: computed.append(key) or torch.zeros(8))  # 32 bytes

    for key in (b"a", b"b", b"a", b"c", b"a", b"b"):
        get(key)
    assert computed == [b"a", b"b", b"c", b"b"]
    assert cache.bytes == 64


def test_a_tensor_larger_than_the_cache_is_returned_and_not_kept():
    cache = PredictionCache(largest=16)
    assert torch.equal(cache.get(b"a", lambda: torch.ones(8)), torch.ones(8))
    assert cache.bytes == 0


def test_a_digest_depends_on_values_shape_dtype_and_order():
    values = torch.arange(8, dtype=torch.int32)
    others = [values.view(2, 4), values.view(torch.float32), values + 1, values.view(2, 4).T]
    digests = [
        digest(values),
        *(digest(other) for other in others),
        digest(values, 1),
        digest(1, values),
        digest("ab", "c"),
        digest("a", "bc"),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(values.clone()) == digests[0]


def test_teachers_with_equal_weights_have_equal_digests_whatever_their_names(teachers):
    assert len({teacher_digest(teacher) for teacher in teachers}) == len(teachers)
    assert teacher_digest(replace(copy.deepcopy(teachers[0]), name="other")) == teacher_digest(teachers[0])
