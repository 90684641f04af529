import dataclasses

import pytest
import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import DroArm
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.errors import UserError
from datafree.meta import dro

ARM = DroArm(steps=30)


def hyper(teachers=4, weights=30):
    with devices.seeded_initialisation(0):
        network = dro.HyperNetwork(teachers, weights, 6)
        targets = torch.randn(teachers, weights)
    with torch.no_grad():
        network.matrix.mul_(50)  # so that the embeddings matter
    return network, targets


def test_the_worst_embedding_has_a_lower_likelihood_and_is_nearer_with_a_higher_penalty():
    network, targets = hyper()
    start = network.embeddings[1].detach()
    loss = dro.negative_log_likelihood(network, start, targets[1]).item()
    distances = []
    for robustness in (0.0, 2.0, 1e6):
        arm = dataclasses.replace(ARM, robustness=robustness, perturbation=0.02, perturbation_steps=20)
        worst = dro.worst_embedding(network, network.embeddings[1], targets[1], arm)
        distances.append((worst - start).norm().item())
        if robustness < 1e6:
            assert dro.negative_log_likelihood(network, worst, targets[1]).item() > loss
    assert distances[0] >= distances[1] > distances[2]
    assert distances[2] < 0.05
    assert torch.equal(dro.worst_embedding(network, start, targets[1], dataclasses.replace(ARM, perturbation_steps=0)), start)


def test_the_gradient_is_that_of_the_upper_level_after_a_step_on_the_lower_level():
    network, targets = hyper()
    arm = dataclasses.replace(ARM, perturbation_steps=0, learning_rate=0.1)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    result = dro.bilevel_gradient(network, targets, 0, 2, arm)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))
    copy, _ = hyper()
    copy.load_state_dict(network.state_dict())
    torch.nn.functional.mse_loss(copy(copy.embeddings[0]), targets[0]).backward()
    torch.optim.SGD(copy.parameters(), lr=0.1).step()
    copy.zero_grad()
    loss = torch.nn.functional.mse_loss(copy(copy.embeddings[2]), targets[2])
    loss.backward()
    assert result == pytest.approx(loss.item())
    for parameter, expected in zip(network.parameters(), copy.parameters(), strict=True):
        assert torch.allclose(parameter.grad, expected.grad, atol=1e-7)


@pytest.mark.parametrize(("count", "share", "upper"), [(10, 0.2, 2), (3, 0.2, 1), (2, 0.9, 1), (1, 0.2, 1), (16, 0.5, 8)])
def test_the_split_is_disjoint_and_no_part_is_empty(count, share, upper):
    lower, held = dro.split_indices(count, share, devices.generator(0))
    assert len(held) == upper
    assert lower
    assert set(lower) | set(held) == set(range(count))
    assert count == 1 or not set(lower) & set(held)


def test_deviations_are_pooled_over_each_tensor(teachers):
    network = teachers[0].network.backbone
    stacked = torch.stack([dro.flat_parameters(teacher.network.backbone) for teacher in teachers])
    result, start = dro.tensor_deviations(network, stacked), 0
    for parameter in network.parameters():
        part = stacked[:, start : start + parameter.numel()]
        expected = ((part - part.mean(0)) ** 2).mean().sqrt().clamp_min(1e-8)
        assert torch.allclose(result[start : start + parameter.numel()], expected, rtol=1e-4)
        start += parameter.numel()
    assert start == len(result)


def test_the_fusion_of_equal_teachers_is_that_teacher(teachers, pools, episodes, fresh_learner):
    learner = fresh_learner("dro")
    twins = TeacherEnsemble([teachers[0]] * 3, [pools[0]] * 3, learner.normalise, torch.device("cpu"), torch.ones(3))
    dro.train(learner, twins, episodes, ARM, 0, Checkpoint(None))
    for fused, own in zip(learner.backbone.parameters(), teachers[0].network.backbone.parameters(), strict=True):
        assert torch.allclose(fused, own, atol=1e-6)


def test_the_running_statistics_are_those_of_recovered_images(train, ensemble_of, pools):
    learner, _ = train(ARM)
    norm = learner.backbone.blocks[0].norm
    with torch.no_grad():
        images = torch.cat([pool.images for pool in pools])
        values = learner.backbone.blocks[0].conv(ensemble_of(learner).views(images, devices.generator(0), augment=False))
    assert torch.allclose(norm.running_mean, values.mean((0, 2, 3)), atol=0.1 * values.std().item())
    assert torch.allclose(norm.running_var, values.var((0, 2, 3)), rtol=0.2)
    assert norm.momentum == 0.1


def test_a_teacher_of_weight_0_has_no_effect(teachers, pools, episodes, fresh_learner):
    first, second = fresh_learner("dro"), fresh_learner("dro")
    sampling_weights = torch.tensor([1.0, 1.0, 0.0])
    dro.train(
        first, TeacherEnsemble(teachers, pools, first.normalise, torch.device("cpu"), sampling_weights), episodes, ARM, 0, Checkpoint(None)
    )
    two = TeacherEnsemble(teachers[:2], pools[:2], second.normalise, torch.device("cpu"), torch.ones(2))
    dro.train(second, two, episodes, ARM, 0, Checkpoint(None))
    for with_dropped, without in zip(first.backbone.state_dict().values(), second.backbone.state_dict().values(), strict=True):
        assert torch.equal(with_dropped, without)


def test_different_architectures_cannot_be_fused(teachers, pools, episodes, fresh_learner, ensemble_of):
    learner = fresh_learner("bell")
    with pytest.raises(UserError, match=r"^method dro: only networks of one architecture can be fused"):
        dro.train(learner, ensemble_of(learner), episodes, ARM, 0, Checkpoint(None))
