import math

import pytest
import torch

from datafree import devices
from datafree.inversion.contrastive import ContrastiveMemory, contrastive_loss


@pytest.fixture
def images():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def memory_of(teacher, size=8):
    return ContrastiveMemory(teacher, 0.8, 0.2, size, seed=0)


def test_the_loss_is_its_formula():
    rng = torch.Generator().manual_seed(0)
    views, others = torch.randn(3, 4, generator=rng, dtype=torch.float64), torch.randn(5, 4, generator=rng, dtype=torch.float64)
    expected = 0.0
    for number, view in enumerate(views):
        similarity = [math.exp(torch.nn.functional.cosine_similarity(view, other, dim=0).item() / 0.3) for other in others]
        expected -= math.log(similarity[number] / sum(similarity)) / 3
    assert contrastive_loss(views, others, 0.3).item() == pytest.approx(expected, rel=1e-5)
    assert contrastive_loss(torch.eye(4), torch.eye(4), 0.01).item() == pytest.approx(0, abs=1e-6)  # all views distinguished


def test_the_memory_bank_holds_the_latest_features(images, teachers):
    memory, rng = memory_of(teachers[0]), devices.generator(0, "views")
    assert len(memory.memory_features()) == 0
    memory.term(images, torch.zeros(6, dtype=torch.int64), teachers[0], rng)
    first = memory.memory_features()
    assert len(first) == 6
    assert not first.requires_grad
    memory.term(images.flip(0), torch.zeros(6, dtype=torch.int64), teachers[0], rng)
    second = memory.memory_features()
    assert len(second) == 8
    assert torch.equal(second[4:6], first[4:6])  # not yet overwritten
    assert not torch.equal(second[:4], first[:4])


def test_a_batch_larger_than_the_memory_is_allowed(images, teachers):
    memory = memory_of(teachers[0], size=4)
    memory.term(images, torch.zeros(6, dtype=torch.int64), teachers[0], devices.generator(0, "views"))
    assert len(memory.memory_features()) == 4


def test_similar_images_have_a_higher_loss_with_a_gradient(images, teachers):
    def loss(batch):
        return memory_of(teachers[0]).term(batch, torch.zeros(6, dtype=torch.int64), teachers[0], devices.generator(0, "views"))

    similar = images[:1] + 0.001 * images
    assert loss(similar) > loss(images)
    similar = similar.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(similar), similar)
    assert gradient.abs().sum() > 0


def test_the_projection_is_trained_and_its_state_restored(images, teachers):
    memory, rng = memory_of(teachers[0]), devices.generator(0, "views")
    before = memory.projection[0].weight.clone()
    memory.term(images, torch.zeros(6, dtype=torch.int64), teachers[0], rng).backward()
    memory.learn(images, teachers[0])
    assert not torch.equal(memory.projection[0].weight, before)
    restored = memory_of(teachers[0])
    restored.load_state_dict(memory.state_dict())
    results = []
    for instance in (memory, restored):
        rng = devices.generator(1, "views")
        instance.term(images, torch.zeros(6, dtype=torch.int64), teachers[0], rng).backward()
        instance.learn(images, teachers[0])
        results.append(instance.term(images, torch.zeros(6, dtype=torch.int64), teachers[0], rng).item())
    assert results[0] == results[1]
