"""Tasks in one pass have the same losses, gradients and running statistics as one after the other, in float64."""

import itertools

import pytest
import torch
from torch import nn

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import (
    AdaptationConfig,
    AdaptedPart,
    AnilArm,
    BackboneConfig,
    BellArm,
    IgrArm,
    MamlArm,
    ProtoNetArm,
    Queried,
    ReplayConfig,
)
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.meta import ARMS
from datafree.meta.episode_losses import EpisodeBatch
from datafree.meta.igr import regularised_loss, regularised_loss_together
from datafree.meta.query_loss import TaskSoftLabels, add_query_gradients, query_losses
from datafree.meta.task_stacks import TaskStack
from datafree.zoo.backbones import BACKBONES, build
from tests.conftest import in_float64

WAY, SHOT, QUERY, TASKS = 3, 2, 2, 3
RULES = [AdaptationConfig(AdaptedPart.network, 2, 0.1), AdaptationConfig(AdaptedPart.head, 2, 0.1)]
# Of those with BatchNorm, one of each kind of layers; all backbones are stacked with fixed weights in tests/zoo/test_stacks.py.
NAMES = ("conv4", "conv4_strided", "resnet8", "resnet12", "resnet20", "wrn16", "mobilenetv2")


def backbone(name="conv4_strided", seed=0):
    return build(BackboneConfig(name, 4), 3, 16, seed=seed).double().train()


def views(tasks=TASKS):
    return torch.randn(tasks, WAY, SHOT + QUERY, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def soft_labels(share, seed):
    values = torch.randn(WAY, SHOT + QUERY, WAY, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return TaskSoftLabels(values.softmax(-1), share, 2.0)


def gradients_and_statistics(network, stack, rule, second_order, soft):
    tasks = zip(views(), soft, strict=True)
    results = add_query_gradients(network, stack, tasks, SHOT, rule, 2, second_order, divisor=TASKS)
    return results, [parameter.grad for parameter in network.parameters()], list(network.buffers())


def assert_equal(first, second):
    """Within 1e-9 of the largest value: second-order gradients of a deep network are large."""
    first, second = list(first), list(second)
    largest = max(1.0, *(value.abs().max().item() for value in first if value.is_floating_point() and value.numel()))
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * largest)


def test_every_name_is_a_backbone():
    assert set(NAMES) <= set(BACKBONES)


# MobileNetV2 takes as long as all others together: with the other two combinations only among the slow tests.
SLOW = {("mobilenetv2", AdaptedPart.network, True), ("mobilenetv2", AdaptedPart.head, False)}


def combination(name, rule, second_order):
    """Parameters of a test."""
    marks = [pytest.mark.slow] if (name, rule.part, second_order) in SLOW else []
    return pytest.param(name, rule, second_order, marks=marks, id=f"{name}-{rule.part}-{'second' if second_order else 'first'} order")


COMBINATIONS = [combination(*values) for values in itertools.product(NAMES, RULES, (True, False))]


@pytest.mark.parametrize(("name", "rule", "second_order"), COMBINATIONS)
def test_meta_gradients_and_running_statistics_are_those_of_a_loop(name, rule, second_order):
    loop, together = backbone(name), backbone(name)
    none = [None] * TASKS
    single = gradients_and_statistics(loop, None, rule, second_order, none)
    stacked = gradients_and_statistics(together, TaskStack(together), rule, second_order, none)
    for first, second in zip(single, stacked, strict=True):
        assert_equal(first, second)
    assert max(gradient.abs().max().item() for gradient in single[1]) > 1e-4
    assert not any(torch.equal(buffer, start) for buffer, start in zip(single[2], backbone(name).buffers(), strict=True))


@pytest.mark.parametrize("rule", RULES, ids=["network", "head"])
def test_tasks_with_and_without_soft_labels_are_in_one_pass(rule):
    loop, together = backbone(), backbone()
    soft = [soft_labels(0.4, 1), None, soft_labels(0.4, 2)]
    single = gradients_and_statistics(loop, None, rule, True, soft)
    for first, second in zip(single, gradients_and_statistics(together, TaskStack(together), rule, True, soft), strict=True):
        assert_equal(first, second)


def test_fewer_tasks_at_once_give_the_same(monkeypatch):
    loop, together = backbone(), backbone()
    stack, none = TaskStack(together), [None] * TASKS
    assert stack.tasks_that_fit(views()[0].flatten(0, 1), 3) > TASKS
    monkeypatch.setattr(devices, "free_bytes", lambda device: 1)
    assert stack.tasks_that_fit(views()[0].flatten(0, 1), 3) == 1
    monkeypatch.setattr(TaskStack, "tasks_that_fit", lambda self, images, passes: 2)
    single = gradients_and_statistics(loop, None, RULES[0], True, none)
    for first, second in zip(single, gradients_and_statistics(together, stack, RULES[0], True, none), strict=True):
        assert_equal(first, second)


def test_the_network_changes_only_when_its_statistics_are_updated(state_of, assert_same_state):
    network = backbone()
    stack, before = TaskStack(network), state_of(network)
    query_losses(stack, views(), SHOT, RULES[0], 2, True)
    assert_same_state(state_of(network), before)


def test_other_batch_norm_layers_are_not_stacked():
    class Other(nn.BatchNorm2d):
        pass

    network = backbone()
    assert TaskStack.of(network, together=False) is None
    assert isinstance(TaskStack.of(network, together=True), TaskStack)
    network.blocks[0].norm = Other(4)
    assert TaskStack.of(network, together=True) is None


def test_the_layers_of_a_stack_do_not_compute_a_single_task():
    with pytest.raises(TypeError, match=r"expected a pass under torch\.vmap"):
        TaskStack(backbone()).template(views()[0].flatten(0, 1))


def test_batch_norm_without_an_affine_map_or_running_statistics():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, track_running_stats=False)).double()
    network.feature_size = 4
    stack, images = TaskStack(network), views(2).flatten(1, 2)
    together = stack(lambda passed, given: passed(given), None, images)
    assert_equal(together, [network(of_task) for of_task in images])
    loop = [buffer.clone() for buffer in network.buffers()]
    network[1].reset_running_stats()
    stack.update_running_statistics(task_by_task=True)
    assert_equal(list(network.buffers()), loop)


# ---- gradient regularisation ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regularisation", [0.0, 0.3])
def test_the_regularised_loss_is_that_of_a_loop(regularisation, fresh_learner):
    rng = torch.Generator().manual_seed(0)
    batches = [
        EpisodeBatch(
            torch.randn(12, 3, 32, 32, generator=rng, dtype=torch.float64), [0, 2],
            torch.randn(12, 2, 5, generator=rng, dtype=torch.float64).softmax(-1), 3, 2,
        )
        for _ in range(3)
    ]  # fmt: skip
    arm = IgrArm(regularisation=regularisation)
    loop, together = (fresh_learner().double().train() for _ in range(2))
    losses = regularised_loss(loop, batches, arm), regularised_loss_together(TaskStack(together), batches, arm)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-9)
    for loss in losses:
        loss.backward()
    assert_equal([parameter.grad for parameter in loop.parameters()], [parameter.grad for parameter in together.parameters()])
    assert_equal(list(loop.buffers()), list(together.buffers()))


# ---- whole arms -------------------------------------------------------------------------------------------------------------------------


TRAININGS = {
    "maml": MamlArm(steps=2, tasks_per_step=3, inner_steps=2),
    "maml with distillation": MamlArm(steps=2, tasks_per_step=3, inner_steps=2, distillation=0.3),
    "anil": AnilArm(steps=2, tasks_per_step=3, inner_steps=2),
    "protonet": ProtoNetArm(steps=2, tasks_per_step=3, task_mixup=0.5),
    "igr": IgrArm(steps=2, tasks_per_step=3),
    "bell": BellArm(steps=2, tasks_per_step=3, replay=ReplayConfig(episodes=2, inner_steps=2, patience=1)),
    "bell of single teachers": BellArm(steps=2, tasks_per_step=3, queried=Queried.own),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_an_arm_learns_the_same_together(name, teachers, pools, episodes, fresh_learner):
    arm, exact = TRAININGS[name], [in_float64(teacher) for teacher in teachers]
    found = []
    for together in (False, True):
        learner = fresh_learner(arm.method).double()
        ensemble = TeacherEnsemble(exact, pools, learner.normalise, torch.device("cpu"), torch.ones(3), together)
        found.append((learner, ARMS[arm.method](learner, ensemble, episodes, arm, 0, Checkpoint(None))))
    (loop, rows), (stacked, other_rows) = found
    for first, second in zip(rows, other_rows, strict=True):
        assert second == pytest.approx(first, rel=1e-7, abs=1e-7)
    for (key, value), other in zip(loop.state_dict().items(), stacked.state_dict().values(), strict=True):
        if not key.endswith("conv.bias"):  # without a gradient: BatchNorm removes them, and Adam scales up what rounding leaves
            torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-6)
