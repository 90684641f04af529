"""MAML with distillation; the derivatives of the inner loops are checked in test_adaptation.py."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from datafree.config import AdaptationConfig, AdaptedPart, BackboneConfig, MamlArm
from datafree.distillation.losses import distillation_loss
from datafree.meta.maml import task_soft_labels
from datafree.meta.query_loss import TaskSoftLabels, query_loss
from datafree.tasks.episodes import episode_images
from datafree.zoo.backbones import build

WAY, SHOT = 3, 2
RULES = [AdaptationConfig(AdaptedPart.network, 10, 0.1), AdaptationConfig(AdaptedPart.head, 10, 0.1)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft(share, seed=1):
    return TaskSoftLabels(normal(WAY, SHOT + 2, WAY, seed=seed).softmax(-1), share, 4.0)


def network():
    return build(BackboneConfig("conv4_strided", 4), 3, 16, seed=0).double().train()


@pytest.fixture(scope="module")
def by_kind(episodes):
    """The tasks of one teacher, and those of several."""
    single = (episodes.teacher == episodes.teacher[:, :1]).all(1)
    return torch.nonzero(single).flatten().tolist(), torch.nonzero(~single).flatten().tolist()


def test_soft_labels_are_the_teachers_softmax_over_the_tasks_classes(ensemble_of, fresh_learner, episodes, by_kind):
    ensemble = ensemble_of(fresh_learner())
    for task in by_kind[0]:
        images = episode_images(ensemble.images, episodes, task)
        result = task_soft_labels(ensemble, episodes, task, ensemble.normalise(images), MamlArm(distillation=0.3, temperature=2.0))
        teacher = ensemble.teachers[int(episodes.teacher[task, 0])]
        with torch.no_grad():
            logits = teacher.network(teacher.normalise(images.float()))[:, episodes.label[task]]
        assert (result.share, result.temperature) == (0.3, 2.0)
        assert torch.allclose(result.probabilities.flatten(0, 1), logits.softmax(1), atol=1e-3)
        assert torch.allclose(result.probabilities.sum(-1), torch.ones(WAY, SHOT + 2))


def test_a_task_of_several_teachers_has_no_soft_labels(ensemble_of, fresh_learner, episodes, by_kind):
    ensemble = ensemble_of(fresh_learner())
    for task in by_kind[1]:
        views = ensemble.normalise(episode_images(ensemble.images, episodes, task))
        assert task_soft_labels(ensemble, episodes, task, views, MamlArm(distillation=0.3)) is None


@pytest.mark.parametrize("rule", RULES, ids=["network", "head"])
def test_inner_and_outer_loss_include_distillation(rule):
    """Compared with plain gradient descent on a network with a head."""
    views, labels, task_labels = normal(WAY, SHOT + 2, 3, 16, 16), torch.arange(WAY), soft(0.4)
    result, _ = query_loss(network(), views, SHOT, rule, 2, False, task_labels)
    plain = network()
    head = torch.nn.Linear(plain.feature_size, WAY).double()
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)

    def loss(part, predictions):
        logits, target = head(plain(part.flatten(0, 1))), labels.repeat_interleave(part.shape[1])
        return 0.6 * F.cross_entropy(logits, target) + 0.4 * distillation_loss(logits, predictions.flatten(0, 1), 4.0)

    everything = [*plain.parameters(), *head.parameters()] if rule.part is AdaptedPart.network else list(head.parameters())
    optimiser = torch.optim.SGD(everything, lr=rule.learning_rate)
    for _ in range(2):
        optimiser.zero_grad()
        loss(views[:, :SHOT], task_labels.probabilities[:, :SHOT]).backward()
        optimiser.step()
    assert result.item() == pytest.approx(loss(views[:, SHOT:], task_labels.probabilities[:, SHOT:]).item(), rel=1e-9)


@pytest.mark.parametrize("rule", RULES, ids=["network", "head"])
def test_the_second_order_gradient_through_distillation_is_that_of_finite_differences(rule):
    views, start = normal(WAY, SHOT + 2, 3, 16, 16), network()
    loss, _ = query_loss(start, views, SHOT, rule, 2, True, soft(0.7))
    gradients = torch.autograd.grad(loss, list(start.parameters()))
    direction = [normal(*p.shape, seed=2) for p in start.parameters()]

    def at(distance):
        moved = network()
        with torch.no_grad():
            for parameter, part in zip(moved.parameters(), direction, strict=True):
                parameter += distance * part
        return query_loss(moved, views, SHOT, rule, 2, True, soft(0.7))[0].item()

    width = 1e-8  # small, because ReLU and pooling have kinks everywhere
    claimed = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True))
    assert claimed == pytest.approx((at(width) - at(-width)) / (2 * width), rel=1e-4, abs=1e-6)


def test_soft_labels_of_share_0_do_not_change_the_loss():
    views = normal(WAY, SHOT + 2, 3, 16, 16)
    labels = (None, soft(0.0), soft(0.5))
    without, unused, used = (query_loss(network(), views, SHOT, RULES[0], 2, True, given)[0].item() for given in labels)
    assert unused == pytest.approx(without, rel=1e-9)
    assert used != pytest.approx(without, rel=1e-3)


def test_an_arm_with_distillation_trains_on_soft_labels(train):
    arm = MamlArm(steps=30, tasks_per_step=2, inner_steps=2)
    (plain, _), (distilled, _) = (train(dataclasses.replace(arm, steps=1, distillation=share)) for share in (0.0, 1.0))
    assert not torch.equal(plain.backbone.blocks[0].conv.weight, distilled.backbone.blocks[0].conv.weight)
    _, history = train(dataclasses.replace(arm, distillation=1.0))
    losses = [row["query_loss"] for row in history]
    assert sum(losses[-10:]) < sum(losses[:10])
