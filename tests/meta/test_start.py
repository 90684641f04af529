from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from datafree.distillation.ensemble import TeacherEnsemble
from datafree.errors import UserError
from datafree.meta.start import best_start, learner_from_teacher, leave_one_out_accuracy
from datafree.zoo.backbones import Normalise


@pytest.fixture
def ensemble(teachers, pools):
    return TeacherEnsemble(teachers, pools, Normalise([0.4] * 3, [0.2] * 3), torch.device("cpu"), torch.ones(3))


def test_a_learner_starts_with_the_features_and_predictions_of_its_teacher(ensemble, teachers, pools, state_of, assert_same_state):
    before = state_of(teachers[1].network)
    learner = learner_from_teacher(ensemble, 1, [3, 4, 5], seed=0).eval()
    images = pools[0].images[:6]
    with torch.no_grad():
        views = learner.normalise(images)
        features, logits = learner(views, [1])
        assert torch.equal(features, teachers[1].features(images))
        assert torch.allclose(logits[:, 0, :4], teachers[1].network(teachers[1].normalise(images)), atol=1e-5)
    assert all(parameter.requires_grad for parameter in learner.parameters())
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
    assert_same_state(state_of(teachers[1].network), before)


def test_a_teacher_of_another_input_size_cannot_be_a_start(ensemble, make_teacher):
    small = replace(ensemble, teachers=[make_teacher("small", ("a", "b", "c"), 0, size=16), *ensemble.teachers[1:]])
    with pytest.raises(UserError, match=r"teacher small has an input of \[3, 16, 16\]; allowed: that of the images, \[3, 32, 32\]"):
        learner_from_teacher(small, 0, [3, 4, 5], seed=0)


def test_the_start_is_the_teacher_that_separates_the_classes_of_other_pools_best(ensemble, teachers, monkeypatch):
    quality = {"first": 0.4, "second": 0.8, "third": 0.6}
    monkeypatch.setattr("datafree.meta.start._leave_one_out_accuracy", lambda teacher, images, labels: quality[teacher.name])
    assert best_start(ensemble, 0) == 1
    assert best_start(replace(ensemble, sampling_weights=torch.tensor([1.0, 0.0, 1.0])), 0) == 2


def test_teachers_are_compared_on_the_same_images_of_a_bounded_number_of_pools_of_others(ensemble, teachers, monkeypatch):
    seen: dict[str, list[bytes]] = {teacher.name: [] for teacher in teachers}

    def note(teacher, images, labels):
        seen[teacher.name].append(images.numpy().tobytes())
        return 0.5

    monkeypatch.setattr("datafree.meta.start._leave_one_out_accuracy", note)
    monkeypatch.setattr("datafree.meta.start.POOLS", 2)
    best_start(ensemble, 0)
    different = {images for of_teacher in seen.values() for images in of_teacher}
    assert len(different) == 2
    assert sorted(map(len, seen.values())) == [1, 1, 2]


def test_the_only_reliable_teacher_is_the_start(ensemble):
    assert best_start(replace(ensemble, sampling_weights=torch.tensor([0.0, 0.0, 1.0])), 0) == 2


def test_leave_one_out_accuracy_is_that_of_a_loop_over_the_images():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 3
    features = torch.randn(24, 5, generator=rng) + torch.eye(3, 5)[labels]
    unit = torch.nn.functional.normalize(features - features.mean(0), dim=1)
    hits = 0
    for i in range(24):
        keep = torch.arange(24) != i
        means = [torch.nn.functional.normalize(unit[keep & (labels == c)].mean(0), dim=0) for c in range(3)]
        hits += int(torch.stack(means).mv(unit[i]).argmax() == labels[i])
    assert leave_one_out_accuracy(features, labels) == pytest.approx(hits / 24)
    assert 0.4 < hits / 24 < 1
